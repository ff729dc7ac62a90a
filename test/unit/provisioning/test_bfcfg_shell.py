"""What the reader of shell lines has read to the end, dash and bash read; what it calls unreadable, neither does."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpf.provisioning.bfcfg.shell import DEEPEST, Unsure, read, unreadable

SHELLS = ("/bin/sh", "/bin/bash")
READ = [
    "",
    " ",
    "# it's a \\",
    "UPDATE_DPU_OS=yes",
    "A=1 # it's",
    "A='x y' B=\"it's $C\" C=a\\ b",
    "A='two\nlines'",
    "A=\r",
    "A=$'tab'",
    "export A B=1",
    "[ -e /x ] && A=1 || A=2",
    "A=1; B=2;",
    "a | b & c",
    ". /etc/x >/dev/null 2>&1 <&-",
    "! a",
    "if a; then b; elif c; then d; else e; fi",
    "while :; do break; done; until a; do b; done",
    "for i in 1 2; do echo $i; done",
    "for i\ndo a; done",
    "case $A in a | b) c ;; (*) ;; esac",
    "case a in\na) b\nesac",
    "f() { a; } 2>x",
    "{ a; (b); }",
    "A=$(cat x | tr a 'b') B=`date`",
    'A="$(echo ")")"',
    "A=${B} B=${B:-$(c)} C=${#B} D=${B%%.*} E=$# F=$$",
    "A=$((1 + $B * 2))",
    "A=a#b",
    "echo fi } esac",
    "a \\\n  b",
]
NOT_READ = {
    "A='x": "a quote ' that is not closed",
    'A="x\\"': 'a quote " that is not closed',
    "A=`x": "a quote ` that is not closed",
    "A=\\": "a backslash at its end",
    "a \\\n": "a backslash at its end",
    "A=$(b": "ends before )",
    "if a; then b": "ends before elif or else or fi",
    "{ a": "ends before }",
    "A=\0": "a NUL character",
}
UNSURE = {
    "if a; b; fi": "has fi where a command is expected",
    "a |": "ends before a command or word",
    "a && ; b": "has ; where none is expected",
    "&& a": "has && where none is expected",
    "a;;": "has ;; where none is expected",
    "}": "has } where a command is expected",
    "{ }": "has no command before }",
    "a)": "has ) where none is expected",
    "a >": "ends before a command or word",
    "for a in b; c; done": "has no do",
    "case a in b; esac": "a pattern that no ) ends",
    "A=${b": "${ that is not closed",
    "A=$((1": "$(( )) that is not closed",
    "f()": "a function f without a body",
    "export() { a; }": "neither quoted nor part",
    "A=(1 2)": "a list in parentheses",
    "cat <<E": "a here-document",
    "a >&b": ">& without the number of a file",
    "[[ a ]]": "has [[, which only bash reads",
    "A[1]=2": "has A[1]=2, which only bash reads",
    "((A))": "has ((, which only bash reads",
    "for 1 in a; do b; done": "a for without the name",
    "A=$'\\''": "a backslash in $' '",
    "A=$(" * (DEEPEST + 1) + ")" * (DEEPEST + 1): "commands within commands",
}
SIGNS = "' \" \\ ` $ $( $(( )) ${ } { ( ) ; ;; & && | || < > << >& 2> 12> # = - :- [ ] [[ ]] ! ~ * $' $\" ${A} ${A:- $A $# $["
WORDS = (
    "A A= A[ a 1 if then fi elif else while until do done for in case esac function time select coproc f() x) export"
)
TOKEN = st.sampled_from(
    [*SIGNS.split(), *WORDS.split(), *[" ", "\n", "\\\n", "\t", "\r", "\v", "\f", "\x85", "\u2028", "\x81", "é"]]
)
COMMANDS = [*READ[3:], "'x'", "`a`", '"$(a)"']


@st.composite
def spoilt(draw: st.DrawFn) -> str:
    """A text that shells read, with a few tokens put in or taken for something."""
    text = draw(st.sampled_from(COMMANDS))
    for token in draw(st.lists(st.one_of(TOKEN, st.sampled_from(COMMANDS)), max_size=3)):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + token + text[start + draw(st.integers(0, 1)) :]
    return text


BEHIND = "\nbfb_modify_os()\n{\n  true\n}\n"
"""What bf.cfg has behind the lines of a flavor."""


def reads(text: str) -> list[bool]:
    """Whether dash does, and whether bash does."""
    script = text.encode()
    return [subprocess.run([s, "-n"], input=script, capture_output=True, timeout=20).returncode == 0 for s in SHELLS]


@pytest.mark.parametrize("text", READ)
def test_what_people_write_is_read(text: str) -> None:
    assert unreadable(text) == ""
    assert all(reads(f"{text}{BEHIND}"))


@pytest.mark.parametrize(("text", "why"), NOT_READ.items())
def test_what_is_not_complete_is_told(text: str, why: str) -> None:
    assert why in unreadable(text)


@pytest.mark.parametrize(("text", "why"), UNSURE.items())
def test_what_some_shell_may_read_is_left_alone(text: str, why: str) -> None:
    with pytest.raises(Unsure) as info:
        read(text)
    assert why in str(info.value)
    assert unreadable(text) == ""


@settings(max_examples=400)
@given(st.one_of(spoilt(), st.lists(TOKEN, max_size=7).map("".join), st.lists(TOKEN, max_size=7).map(" ".join)))
def test_what_is_read_to_the_end_shells_read_and_what_is_refused_they_do_not(text: str) -> None:
    if why := unreadable(text):
        # A backslash at the end spoils what is behind it only.
        assert "backslash at its end" in why or not any(reads(text)), text
        return
    with suppress(Unsure):
        read(text)
        assert all(reads(f"{text}{BEHIND}")), text


@pytest.mark.parametrize(
    "text",
    [
        "$((" + "$a" * 30_000,
        "${A:-" * 20_000,
        "`" * 99_999,
        "a\\\n " * 30_000,
        "\n" * 99_999,
        "((" * 50_000,
        "'a'" * 33_333,
    ],
)
def test_a_long_text_is_read_in_no_time(text: str) -> None:
    """As long as a bf.cfg may be: the webhook must answer."""
    begun = time.process_time()
    unreadable(text)
    assert time.process_time() - begun < 2

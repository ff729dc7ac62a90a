"""What is called complete leaves the lines behind it alone; what is not is refused in bash's words."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpf.provisioning.bfcfg import shell
from dpf.provisioning.bfcfg.shell import unreadable

READ = [
    "",
    " ",
    "UPDATE_DPU_OS=yes",
    "A=1 # it's",
    "A='x y' B=\"it's $C\" C=a\\ b",
    "A='two\nlines'",
    "A=$'tab'",
    "A=\\\\",
    "[ -e /x ] && A=1 || A=2",
    "[[ a ]] && ((A)) && A[1]=2",
    "A=(1 2)",
    ". /etc/x >/dev/null 2>&1 <&-",
    "if a; then b; elif c; then d; else e; fi",
    "for i in 1 2; do echo $i; done",
    "case $A in a | b) c ;; (*) ;; esac",
    "f() { a; } 2>x",
    "A=$(cat x | tr a 'b') B=`date`",
    "A=${B} B=${B:-$(c)} C=${#B} D=${B%%.*} E=$# F=$$",
    "cat <<E\nit's\nE",
    "a \\\n  b",
    "A=é",
]
NOT_READ = {
    "A='x": "unexpected EOF while looking for matching `''",
    'A="x\\"': "unexpected EOF while looking for matching `\"'",
    "A=`x": "unexpected EOF while looking for matching ``'",
    "A=$(b": "unexpected EOF while looking for matching `)'",
    "A=(1 2": "unexpected EOF while looking for matching `)'",
    "A=\\": "a backslash at its end",
    "a \\\\\\\n": "a backslash at its end",
    "if a; then b": "syntax error: unexpected end of file",
    "{ a": "syntax error: unexpected end of file",
    "cat <<E\nx": "here-document at line 1 delimited by end-of-file (wanted a word of it)",
    "A=1\n)": "syntax error near unexpected token `)'",
    "A=\0": "a NUL character",
}
SIGNS = "' \" \\ ` $ $( $(( )) ${ } { ( ) ; ;; & && | < > << <<- # = [ ] [[ ]] ! $' A A= a 1 E if then fi while do for in case f()"
PIECES = st.sampled_from([*SIGNS.split(), " ", "\n", "\\\n", "\t", "\r", "é", "\u2028", *READ[2:]])


def reads(text: str) -> bool:
    """Whether bash does."""
    asked = subprocess.run(["bash", "-n"], input=text.encode(), capture_output=True, timeout=20)
    return asked.returncode == 0 and not asked.stderr


@pytest.mark.parametrize("text", READ)
def test_what_people_write_is_read(text: str) -> None:
    assert unreadable(text) == ""


@pytest.mark.parametrize(("text", "why"), NOT_READ.items())
def test_what_is_not_complete_is_told_in_the_words_of_the_shell(text: str, why: str) -> None:
    assert why in unreadable(text)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=7).map("".join))
def test_what_is_called_complete_takes_nothing_of_what_is_behind_it(text: str) -> None:
    if not unreadable(text):
        assert reads(f"{text}\nbfb_modify_os()\n{{\n  true\n}}\n"), text
        assert not reads(f"{text}\n)\n"), f"the parenthesis behind it was taken for a part of {text!r}"


def test_no_word_of_the_text_is_told() -> None:
    """It may be a part of a password."""
    for text in ("[[ a s3cret b ]]", "cat <<s3cret\nx", "if then s3cret", "for s3cret x"):
        assert "s3cret" not in unreadable(text)
        assert unreadable(text)


def test_nothing_is_run(tmp_path: Path) -> None:
    assert unreadable(f"touch {tmp_path}/ran; A=$(touch {tmp_path}/ran); set +n; touch {tmp_path}/ran") == ""
    assert list(tmp_path.iterdir()) == []


def test_without_a_shell_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert unreadable("A='never asked before") == ""


@pytest.mark.parametrize(
    "text",
    [
        "$((" + "$a" * 30_000,
        "${A:-" * 20_000,
        "`" * 99_999,
        "a\\\n " * 30_000,
        "((" * 50_000,
        "$(" * 20_000,
        "{ " * 40_000,
    ],
    ids=["arithmetic", "braces", "backquotes", "lines", "parentheses", "substitutions", "groups"],
)
def test_nothing_holds_the_manager_up(text: str) -> None:
    """As long as a bf.cfg may be: it is answered within the webhook's time, whatever bash makes of it."""
    unreadable(text)  # it would raise that bash has not read it within its deadline


def test_a_text_that_the_shell_crashes_of_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of 20,000 parentheses within each other, where it is given little stack."""
    monkeypatch.setattr(shell, "COMMAND", ("sh", "-c", "kill -SEGV $$"))
    assert unreadable("A=crash") == "bash can't read it"

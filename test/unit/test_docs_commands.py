"""What README and the pages tell a reader to type, look at or follow can be: as far as that shows without a cluster."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dpf.runtime.options import parse
from dpf_cmd import dpfctl
from dpf_cmd.dms import of_dmsd
from test import kustomize

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
MAKEFILE = (ROOT / "Makefile").read_text()

BLOCK_LINE = re.compile(r"^ {4}(.*)$", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SUBSTITUTED = re.compile(r"[$<]\(([^()]*)\)")
OPERATORS = frozenset({"|", "||", "&&", "&", ";", ">", ">>", "<", "(", ")"})
IN_FRONT = re.compile(r"^(?:\w+=\S* |ip netns exec \S+ |sudo )+")
PATH = re.compile(r"(?:config|docs|test|dpf|hack|api|cmd)/[\w./*-]*\w\*?(?:\.\w+)?/?")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page: Path) -> Iterator[str]:
    """The lines of the page's blocks, those that a backslash joins as one."""
    yield from "\n".join(BLOCK_LINE.findall(page.read_text())).replace("\\\n", " ").split("\n")


def inline(page: Path) -> Iterator[str]:
    """What stands in backquotes in its text."""
    yield from INLINE.findall(page.read_text())


def code(page: Path) -> Iterator[str]:
    """Both."""
    yield from blocks(page)
    yield from inline(page)


def commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, with those whose output it uses; without comments and what is redirected."""
    line = line.removeprefix("$ ")
    for inner in SUBSTITUTED.findall(line):
        yield from commands(inner)
    lexer = shlex.shlex(SUBSTITUTED.sub("X", line), posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return  # prose, or a part of a file
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in OPERATORS:
            command.append(word)
            continue
        yield command
        # A name behind it is a file's, and no command's.
        command = ["redirected"] if word in {">", ">>", "<"} else []


def ours(line: str) -> Iterator[list[str]]:
    """Of these commands those that this project installs; a drawing has none."""
    if line.startswith(("|", "+")):
        return
    for command in commands(IN_FRONT.sub("", line.removeprefix("$ "))):
        if command and command[0] in SCRIPTS:
            yield command


def arguments(command: Sequence[str]) -> None:
    """Has the command's own parser read it.

    :raises SystemExit: if it does not take that.
    """
    name, *words = command
    if name == "dpfctl":
        dpfctl.build_parser(next((word for word in words if not word.startswith("-")), "")).parse_args(words)
    else:
        options: Any = importlib.import_module(SCRIPTS[name].partition(":")[0]).Options
        parse(options, of_dmsd(words) if name == "dms" else words, prog=name, description="")


def found(read: Callable[[str], Iterator[Any]], where: Callable[[Path], Iterator[str]] = code) -> list[Any]:
    """What all pages have of something, each with its page's name, once."""
    seen = {
        (page.relative_to(ROOT).as_posix(), str(each)): each
        for page in PAGES
        for line in where(page)
        for each in read(line)
    }
    return [pytest.param(each, id=f"{page}: {text}") for (page, text), each in seen.items()]


def typed(line: str) -> Iterator[list[str]]:
    """Commands of a block; a process's name alone is its name."""
    yield from (command for command in ours(line) if len(command) > 1)


def mentioned(line: str) -> Iterator[list[str]]:
    """Commands in a text, where that of a subcommand alone is its name too."""
    yield from (command for command in typed(line) if command[0] != "dpfctl" or len(command) > 2)


COMMANDS = [*found(typed, blocks), *found(mentioned, inline)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_read_by_its_own_program(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        arguments(command)
    except SystemExit as error:
        pytest.fail(f"{shlex.join(command)}: {error.code}, {capsys.readouterr().err}")


def made(line: str) -> Iterator[list[str]]:
    yield from (command for command in commands(line) if command and command[0] == "make" and len(command) > 1)


@pytest.mark.parametrize("command", found(made))
def test_what_is_to_be_made_can_be(command: list[str]) -> None:
    for word in command[1:]:
        name, assigned, value = word.partition("=")
        if not assigned:
            assert re.search(rf"^{re.escape(name)}:", MAKEFILE, re.MULTILINE), f"there is no target {name}"
        else:
            assert re.search(rf"\$\((?:if \$\()?{name}\b", MAKEFILE), f"nothing in the Makefile reads {name}"
            assert not PATH.fullmatch(value) or list(ROOT.glob(value)), f"there is no {value}"


def paths(line: str) -> Iterator[str]:
    """Paths of this repository in code; ``NAME`` in one stands for whatever the reader calls it."""
    for word in line.split():
        word = word.strip("\"',;:()").removeprefix("../").partition("::")[0]
        if PATH.fullmatch(word) and "NAME" not in word:
            yield word


@pytest.mark.parametrize("path", found(paths))
def test_a_path_that_is_named_is_there(path: str) -> None:
    assert list(ROOT.glob(path.rstrip("/"))), f"there is no {path}"


def kustomizations() -> list[str]:
    """Folders of this repository that a reader is told to apply, or to name in a kustomization."""
    named = {path.rstrip("/") for page in PAGES for line in code(page) for path in paths(line)}
    return sorted(name for name in named if (ROOT / name / "kustomization.yaml").is_file())


@pytest.mark.parametrize("folder", kustomizations())
def test_a_kustomization_that_is_named_builds(folder: str) -> None:
    assert kustomize.build(ROOT / folder)


def test_whatever_is_applied_as_a_kustomization_is_one() -> None:
    applied = {
        command[command.index("-k") + 1].rstrip("/")
        for page in PAGES
        for line in code(page)
        for command in commands(line)
        if command and command[0] == "kubectl" and "-k" in command[:-1]
    }
    assert "config/crd" in applied
    assert applied - set(kustomizations()) == {"my-dpf"}, "the reader's own"


def test_the_readers_own_kustomization_builds_beside_this_repository(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    block = text[text.index("    # my-dpf/kustomization.yaml") :].partition("\n\n")[0]
    (tmp_path / "config").symlink_to(ROOT / "config")
    folder = tmp_path / "my-dpf"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text("\n".join(BLOCK_LINE.findall(block)))
    objects = kustomize.build(folder)
    assert {"Deployment", "DaemonSet", "DPUFlavor"} <= {obj["kind"] for obj in objects}
    images = {container["image"] for obj in objects for container in kustomize.containers(obj)}
    assert images == {"REGISTRY/dpf:0.1.0"}
    [named] = [obj["data"] for obj in objects if obj["metadata"]["name"] == "provisioning-images"]
    assert named == {"DMS_IMAGE": "REGISTRY/dpf-dms:0.1.0", "HOSTNETWORK_IMAGE": "REGISTRY/dpf:0.1.0"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


def test_the_looks_at_the_pages_find_something() -> None:
    """As a change of the pages' form would leave nothing to look at."""
    assert len(COMMANDS) > 40
    assert len(found(made)) > 5
    assert len(found(paths)) > 40
    assert {"config/crd", "config/default", "config/detector", "config/all-namespaces"} <= set(kustomizations())
    assert list(ours('eval "$(dpfctl sandbox env)"   # KUBECONFIG')) == [["dpfctl", "sandbox", "env"]]
    assert list(ours("dpfctl sandbox samples | kubectl apply -f -")) == [["dpfctl", "sandbox", "samples"]]
    with pytest.raises(SystemExit):
        arguments(["dpfctl", "wait", "dpus", "--no-such-flag"])
    with pytest.raises(SystemExit):
        arguments(["provisioning-manager", "--no-such-flag"])

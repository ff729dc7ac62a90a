"""``dpfctl completion``: completion for bash, zsh and fish.

The scripts are the same few lines for ever: they ask ``dpfctl completion candidates`` with the words typed so far. It walks the
parser for subcommands, flags and choices, and asks the cluster for names of objects, for a second at most.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from dpf.ctl import output

PATIENCE = 1.0
"""Seconds that a cluster has to tell the names of its objects."""

BASH = """\
_dpfctl() {
    local IFS=$'\\n'
    COMPREPLY=($(dpfctl completion candidates -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _dpfctl dpfctl
"""
ZSH = """\
#compdef dpfctl
_dpfctl() {
    local -a found
    found=(${(f)"$(dpfctl completion candidates -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -- $found; else _files; fi
}
compdef _dpfctl dpfctl
"""
FISH = """\
function __dpfctl_candidates
    dpfctl completion candidates -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null
end
complete -c dpfctl -f -a '(__dpfctl_candidates)'
complete -c dpfctl -n '__fish_contains_opt -s f filename' -F
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
HOW = """\
To load it in this shell and in those to come:
  bash:  source <(dpfctl completion bash)        and the same line in ~/.bashrc
  zsh:   source <(dpfctl completion zsh)         and the same line in ~/.zshrc, behind compinit
  fish:  dpfctl completion fish > ~/.config/fish/completions/dpfctl.fish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``dpfctl completion``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}.\n\n{HOW}"
    shells = parser.add_subparsers(dest="shell", required=True, metavar="SHELL")
    for shell in SCRIPTS:
        shells.add_parser(shell, help=f"the script for {shell}").set_defaults(run=script)
    candidates_ = shells.add_parser("candidates")  # for the scripts: in no help
    candidates_.add_argument("words", nargs="*")
    candidates_.set_defaults(run=complete)


def script(arguments: argparse.Namespace) -> int:
    """Prints the script of a shell."""
    output.say(SCRIPTS[arguments.shell].rstrip())
    return 0


def complete(arguments: argparse.Namespace) -> int:
    """Prints what the last of the words may become, one a line."""
    words = arguments.words or [""]
    for candidate in candidates(arguments.build_parser(words[0] if len(words) > 1 else ""), words):
        output.say(candidate)
    return 0


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """What the last word may become, given those before it; nothing where only a file or free text fits."""
    *before, last = words
    given: list[str] = []
    kubeconfig: Path | None = None
    namespace = ""
    awaiting: argparse.Action | None = None
    for word in before:
        if awaiting is not None:
            kubeconfig = Path(word) if "--kubeconfig" in awaiting.option_strings else kubeconfig
            namespace = word if "--namespace" in awaiting.option_strings else namespace
            awaiting = None
        elif word.startswith("-") and word != "-":
            awaiting = _takes_value(parser, word)
        elif (sub := _subparsers(parser)) is not None:
            if word not in sub.choices:
                return []
            parser, given = sub.choices[word], []
        else:
            given.append(word)
    if awaiting is not None:
        return _starting(last, awaiting.choices or ())
    if last.startswith("-"):
        return _starting(last, (flag for each in _actions(parser) for flag in each.option_strings))
    if (sub := _subparsers(parser)) is not None:
        return _starting(last, (each.dest for each in sub._choices_actions))  # noqa: SLF001  (what has a help)
    return _starting(last, _positional(parser, given, kubeconfig, namespace))


def _positional(
    parser: argparse.ArgumentParser, given: Sequence[str], kubeconfig: Path | None, namespace: str
) -> Sequence[str]:
    """A kind first, then names of objects of that kind; or the choices of a positional that has some."""
    places = [each for each in _actions(parser) if not each.option_strings]
    place = places[min(len(given), len(places) - 1)] if places else None
    if place is None or (len(given) >= len(places) and place.nargs not in ("*", "+")):
        return ()
    if place.choices:
        return list(place.choices)
    if place.dest in ("kind", "kinds"):
        return _kinds(parser.prog.rpartition(" ")[2])
    if place.dest in ("name", "names") and given:
        return names(given[0], kubeconfig, namespace)
    return ()


def _kinds(command: str) -> list[str]:
    """The kinds that a command is about, by plural."""
    from dpf.ctl.kinds import KINDS

    match command:
        case "retry":
            from dpf.ctl.retry import RETRIABLE

            return [kind.RESOURCE.plural for kind in RETRIABLE.values()]
        case "wait":
            return [plural for plural, kind in KINDS.items() if "status" in kind.model_fields]
    return [*KINDS, "all"]


def names(kind: str, kubeconfig: Path | None, namespace: str) -> list[str]:
    """Names of objects in the cluster; none if it does not tell them at once."""
    from dpf.ctl.connect import Session
    from dpf.ctl.kinds import kind_of
    from dpf.runtime.client import Client
    from dpf.runtime.errors import DpfError
    from dpf.runtime.kubeconfig import Kubeconfig

    async def ask() -> list[str]:
        where = Kubeconfig.load(kubeconfig)
        async with asyncio.timeout(PATIENCE), Client(where, field_owner="dpfctl") as client:
            return [each.name for each in await Session(client, where, namespace).find(kind_of(kind))]

    try:
        return asyncio.run(ask())
    except (DpfError, TimeoutError):
        return []


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # noqa: SLF001  (argparse has no other way to list them)


def _subparsers(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    return next((each for each in _actions(parser) if isinstance(each, argparse._SubParsersAction)), None)  # noqa: SLF001


def _takes_value(parser: argparse.ArgumentParser, flag: str) -> argparse.Action | None:
    """The action of a flag whose value is the next word."""
    action = next((each for each in _actions(parser) if flag in each.option_strings), None)
    return action if action is not None and action.nargs != 0 else None


def _starting(prefix: str, words: Iterable[object]) -> list[str]:
    return [word for word in map(str, words) if word.startswith(prefix)]

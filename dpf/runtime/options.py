"""Flags of a process, from a frozen dataclass: its annotations are the ``--help``.

    @dataclass(frozen=True)
    class Options:
        manager: ManagerOptions = ManagerOptions()
        dms_image: Annotated[str, "image of the DMS pods"] = ""

Field ``dms_image`` becomes ``--dms-image``, unless its annotation has a :class:`~dpf.runtime.goflags.Named`; a dataclass inside
gives its own flags. Booleans take ``--leader-elect``,
``--leader-elect=false`` and ``--no-leader-elect``; durations are written as Go programs have them (``90s``, ``5m``, ``1h30m``).
A wrong flag ends the process with one line that names it, and exit code 2.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from dpf.runtime.errors import ConfigError
from dpf.runtime.goflags import GoFlags, Named
from dpf.runtime.log import Format, Level

D = TypeVar("D")


class Seconds(float):
    """A duration. On the command line ``90s``, ``5m``, ``1h30m`` or a plain number of seconds."""


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> Seconds:
    """Reads a duration.

    :raises ValueError: if it is none.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return Seconds(text)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration; write for example 90s, 5m or 1h30m")
    return Seconds(sum(float(number) * _UNIT[unit] for number, unit in parts))


def written(seconds: float) -> str:
    """A duration as flags are given one: ``45s``, ``10m``, ``1h30m``."""
    whole = round(max(0.0, seconds))
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def boolean(text: str) -> bool:
    """Reads true or false as Go's flag package does.

    :raises ValueError: if it is neither.
    """
    if text in {"1", "t", "T", "true", "TRUE", "True"}:
        return True
    if text in {"0", "f", "F", "false", "FALSE", "False"}:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def whole(text: str) -> int:
    """Reads a whole number.

    :raises ValueError: if it is none.
    """
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def words(text: str) -> tuple[str, ...]:
    """Reads a comma-separated list."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


class Parser(argparse.ArgumentParser):
    """A parser whose errors say what to do, on one line, in the name of the command that was called."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the base's; words that a subcommand does not know are its error, not that of the whole."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Ends the process with status 2."""
        unknown = re.search(r"unrecognized arguments: (--?[\w-]+)", message)
        if unknown:
            told = [action for action in self._actions if action.help is not argparse.SUPPRESS]
            known = [flag for action in told for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[1], known, n=1)
            message = f"there is no flag {unknown[1]}" + (f"; did you mean {near[0]}?" if near else "")
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parse(options: type[D], argv: Sequence[str] | None = None, *, prog: str, description: str) -> D:
    """The options that the command line gives.

    :raises SystemExit: 2 for a wrong flag, 0 after ``--help`` or ``--version``.
    """
    parser = Parser(
        prog=prog, description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"{prog} {installed_version()}")
    for field, hint, default in _flags(options):
        _add(parser, field, hint, default)
    found = vars(parser.parse_args(sys.argv[1:] if argv is None else argv))
    try:
        built: D = _build(options, found)
    except ConfigError as error:
        parser.error(str(error))
    return built


def installed_version() -> str:
    """The version of this package, as ``--version`` shows it."""
    try:
        return version("dpf")
    except PackageNotFoundError:
        return "unknown"


def _flags(options: type[Any]) -> list[tuple[Field[Any], Any, Any]]:
    """Field, annotation and default of every flag, those of inner dataclasses in their place."""
    hints = get_type_hints(options, include_extras=True)
    rows: list[tuple[Field[Any], Any, Any]] = []
    for field in fields(options):
        if is_dataclass(hints[field.name]):
            rows += _flags(hints[field.name])
        else:
            rows.append((field, hints[field.name], None if field.default is MISSING else field.default))
    return rows


def _add(parser: argparse.ArgumentParser, field: Field[Any], hint: Any, default: Any) -> None:
    kind, text, *more = get_args(hint) if get_origin(hint) is Annotated else (hint, "")
    if get_origin(kind) in {Union, UnionType}:
        kind = next(each for each in get_args(kind) if each is not type(None))
    names = [each for each in more if isinstance(each, Named)]
    flag = names[0] if names else "--" + field.name.replace("_", "-")
    shown = "" if default in (None, "", ()) else f" (default {_shown(default)})"
    common: dict[str, Any] = {"dest": field.name, "default": default, "help": (text + shown).replace("%", "%%")}
    if field.default is MISSING:
        common["required"] = True
    if kind is bool:
        parser.add_argument(flag, nargs="?", const=True, type=_checked(boolean), metavar="BOOL", **common)
        parser.add_argument("--no-" + flag[2:], dest=field.name, action="store_false", help=argparse.SUPPRESS)
    elif get_origin(kind) is Literal:
        parser.add_argument(flag, choices=get_args(kind), **common)
    else:
        convert = _CONVERT.get(kind, words)
        flags = [flag, flag[1:]] if len(field.name) == 1 else [flag]
        parser.add_argument(*flags, type=_checked(convert), metavar=_metavar(kind), **common)


_CONVERT: dict[Any, Callable[[str], Any]] = {Seconds: duration, int: whole, float: float, Path: Path, str: str}


def _metavar(kind: Any) -> str:
    return {Seconds: "DURATION", int: "N", float: "X", Path: "PATH", str: "TEXT"}.get(kind, "A,B,...")


def _checked(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def converted(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return converted


def _shown(default: Any) -> str:
    if isinstance(default, Seconds):
        return f"{float(default):g}s"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _build(options: type[Any], found: dict[str, Any]) -> Any:
    hints = get_type_hints(options)
    return options(
        **{
            field.name: _build(hints[field.name], found) if is_dataclass(hints[field.name]) else found[field.name]
            for field in fields(options)
        }
    )


LEASE_DURATION, RENEW_DEADLINE, RETRY_PERIOD = Seconds(15), Seconds(10), Seconds(5)
"""client-go's, but for the retry period: 2 s there, which is two thirds of the requests of a manager at rest."""
GRACE = Seconds(8)


@dataclass(frozen=True)
class ManagerOptions:
    """The flags that every manager has."""

    kubeconfig: Annotated[
        Path | None, "kubeconfig of the host cluster; else $KUBECONFIG, in-cluster credentials, ~/.kube/config"
    ] = None
    namespace: Annotated[str, "namespace to watch; all namespaces if empty"] = ""
    leader_elect: Annotated[bool, "act only while holding the lease, so that several replicas may run"] = False
    leader_elect_namespace: Annotated[str, "namespace of the lease; the kubeconfig's or pod's own if empty"] = ""
    leader_elect_lease_duration: Annotated[Seconds, "how long a lease that is not renewed holds"] = LEASE_DURATION
    leader_elect_renew_deadline: Annotated[Seconds, "how long the leader tries to renew before it ends"] = (
        RENEW_DEADLINE
    )
    leader_elect_retry_period: Annotated[Seconds, "time between tries to take or renew the lease"] = RETRY_PERIOD
    metrics_bind_address: Annotated[str, "HOST:PORT of /metrics; 0 turns it off"] = ":8080"
    metrics_secure: Annotated[
        bool, "serve them by HTTPS, and only to accounts that the cluster allows to get /metrics"
    ] = False
    health_probe_bind_address: Annotated[str, "HOST:PORT of /healthz and /readyz; 0 turns it off"] = ":8081"
    workers: Annotated[int, "objects of a kind reconciled at once"] = 8
    graceful_shutdown_timeout: Annotated[Seconds, "how long reconciles may finish after SIGTERM"] = GRACE
    log_level: Annotated[Level, "least level that is logged"] = "info"
    log_format: Annotated[Format, "json, or console for a person"] = "json"
    otlp_endpoint: Annotated[str, "URL of an OTLP/HTTP receiver of traces, such as http://HOST:4318; off if empty"] = ""
    go: GoFlags = GoFlags()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        """
        :raises ConfigError: if nothing would ever be reconciled.
        """
        if self.workers < 1:
            raise ConfigError(f"argument --workers: must be at least 1, not {self.workers}")

    @property
    def guarded(self) -> bool:
        """Whether metrics are served to those only who may have them."""
        return self.metrics_secure and not self.go.insecure_metrics

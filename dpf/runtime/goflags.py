"""Flags that managers written in Go have, under the names that manifests made for those give them.

What they say holds where it means something here; the rest is accepted and ignored, and ``--help`` says what takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from dpf.runtime.log import Format, Level

DEBUG_FROM = 4
"""The verbosity from which klog programs are as talkative as our debug level."""


class Named(str):
    """A flag's own name, where it can't be made of the field's: ``Annotated[bool, "help", Named("--collector.PSID")]``."""


@dataclass(frozen=True)
class GoFlags:
    """Each as klog, component-base, controller-runtime or its zap logger have it."""

    v: Annotated[int, "verbosity; 4 and more is --log-level=debug"] = 0
    logging_format: Annotated[Literal["", "text", "json"], "json is --log-format=json, text is console"] = ""
    zap_log_level: Annotated[str, "debug, info, error or a number above 0 for debug: as --log-level"] = ""
    zap_encoder: Annotated[Literal["", "json", "console"], "as --log-format"] = ""
    insecure_metrics: Annotated[bool, "turns --metrics-secure off"] = False
    enable_http2: Annotated[bool, "ignored: servers here speak HTTP/1.1 only"] = False
    sync_period: Annotated[str, "ignored: watches are watched, so caches need no resync"] = ""
    vmodule: Annotated[str, "ignored: use --log-level"] = ""
    log_flush_frequency: Annotated[str, "ignored: logs are not buffered"] = ""
    log_text_split_stream: Annotated[bool, "ignored: logs go to standard error"] = False
    log_text_info_buffer_size: Annotated[str, "ignored: logs are not buffered"] = ""
    log_json_split_stream: Annotated[bool, "ignored: logs go to standard error"] = False
    log_json_info_buffer_size: Annotated[str, "ignored: logs are not buffered"] = ""
    zap_devel: Annotated[bool, "ignored: use --log-level and --log-format"] = False
    zap_stacktrace_level: Annotated[str, "ignored: an unexpected error is logged with its traceback"] = ""
    zap_time_encoding: Annotated[str, "ignored: times are RFC 3339 in UTC"] = ""

    def level(self, level: Level) -> Level:
        """The least level that is logged.

        :param level: of ``--log-level``; the more talkative wins.
        """
        zap = self.zap_log_level
        if self.v >= DEBUG_FROM or zap == "debug" or (zap.isdigit() and int(zap) > 0):
            return "debug"
        return "error" if zap in {"error", "panic"} and level == "info" else level

    def format(self, format: Format) -> Format:  # noqa: A002
        """The form of log lines: of ``--log-format`` if none of these says another."""
        if self.zap_encoder:
            return self.zap_encoder
        return {"text": "console", "json": "json"}.get(self.logging_format, format)  # type: ignore[return-value]


@dataclass(frozen=True)
class GlogFlags:
    """Each as glog has it."""

    v: Annotated[int, "verbosity; 4 and more is --log-level=debug"] = 0
    logtostderr: Annotated[bool, "ignored: logs go to standard error"] = True
    alsologtostderr: Annotated[bool, "ignored: logs go to standard error"] = True
    stderrthreshold: Annotated[str, "ignored: use --log-level"] = ""
    vmodule: Annotated[str, "ignored: use --log-level"] = ""
    log_dir: Annotated[str, "ignored: logs go to standard error", Named("--log_dir")] = ""
    log_link: Annotated[str, "ignored: logs go to standard error", Named("--log_link")] = ""
    log_backtrace_at: Annotated[
        str, "ignored: an unexpected error is logged with its traceback", Named("--log_backtrace_at")
    ] = ""
    logbuflevel: Annotated[int, "ignored: logs are not buffered"] = 0

    def level(self, level: Level) -> Level:
        """The least level that is logged.

        :param level: of ``--log-level``; the more talkative wins.
        """
        return "debug" if self.v >= DEBUG_FROM else level

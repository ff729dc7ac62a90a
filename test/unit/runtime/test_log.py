"""Log lines, as a process writes them."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
import pytest
import structlog

from dpf.runtime import conditions
from dpf.runtime.log import HIDDEN, RECONCILE, Format, configure, get_logger, hidden
from dpf.runtime.meta import Key

PRIVATE = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIOsesame\n-----END EC PRIVATE KEY-----"
BOOTSTRAP = "abcdef.0123456789abcdef"
IN_BASE64 = base64.b64encode(PRIVATE.encode()).decode()
JWT = "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is the process's; other tests have their own idea of it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def written(capsys: pytest.CaptureFixture[str], **fields: object) -> dict[str, object]:
    """The line that comes of an info with these fields."""
    configure("info", "json")
    get_logger("module").info("said", **fields)
    line: dict[str, object] = orjson.loads(capsys.readouterr().err)
    return line


def test_a_line_is_one_json_object_with_time_level_and_module(capsys: pytest.CaptureFixture[str]) -> None:
    line = written(capsys, dpu="a", count=3, key=Key("n", "a"))
    assert line.pop("timestamp", "").endswith("Z")  # type: ignore[attr-defined]
    assert line == {"event": "said", "level": "info", "module": "module", "dpu": "a", "count": 3, "key": "n/a"}


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning", "json")
    get_logger("module").info("said")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["token", "bootstrap_token", "password", "Authorization", "private_key"])
def test_a_field_named_like_a_secret_is_hidden(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert written(capsys, **{name: "sesame"})[name] == HIDDEN
    assert written(capsys, more={name: "sesame"})["more"] == {name: HIDDEN}
    assert written(capsys, more={"a": [{"b": {name: "sesame"}}]})["more"] == {"a": [{"b": {name: HIDDEN}}]}


@dataclass
class Pair:
    name: str
    secret: str = field(repr=False)


@pytest.mark.parametrize("secret", [PRIVATE, IN_BASE64, BOOTSTRAP, JWT])
@pytest.mark.parametrize("format", ["json", "console"])
def test_a_secret_is_hidden_wherever_it_stands(capsys: pytest.CaptureFixture[str], secret: str, format: Format) -> None:  # noqa: A002
    configure("info", format)
    get_logger("module").info(
        "said",
        text=f"before {secret} after",
        raw=secret.encode(),
        inside=[{"deep": secret}],
        key={secret: 1},
        error=ValueError(secret),
        pair=Pair("a", secret),
    )
    text = capsys.readouterr().err
    assert "sesame" not in text
    assert secret not in text
    assert "before" in text
    assert "after" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://me:sesame@host:1/a: refused", f"GET https://{HIDDEN}@host:1/a: refused"),
        ("https://:ses@me:2@host", f"https://{HIDDEN}@host"),
        ("https://host:1/a@b:2", "https://host:1/a@b:2"),
        ("docker://nginx@sha256:ab12", "docker://nginx@sha256:ab12"),
        ("from https://host:1 by me@here", "from https://host:1 by me@here"),
    ],
)
def test_user_and_password_of_a_url_are_hidden_and_nothing_else_of_it(text: str, shown: str) -> None:
    assert hidden(text) == shown


@pytest.mark.parametrize("secret", [PRIVATE, IN_BASE64, BOOTSTRAP, JWT, "https://me:sesame@host"])
def test_a_condition_shows_no_secret(secret: str) -> None:
    message = conditions.new("Ready", False, "Refused", f"before {secret} after").message
    assert secret not in message
    assert "sesame" not in message
    assert message.startswith("before ")
    assert message.endswith(" after")


def test_a_certificate_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    text = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIB").decode()
    assert written(capsys, text=text)["text"] == text


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_traceback_shows_neither_local_variables_nor_secrets(
    capsys: pytest.CaptureFixture[str],
    format: Format,  # noqa: A002
) -> None:
    configure("info", format)

    def fails() -> None:
        local = "open" + "sesame"
        raise RuntimeError(f"refused {BOOTSTRAP} of length {len(local)}")

    try:
        fails()
    except RuntimeError:
        get_logger("module").exception("failed")
    text = capsys.readouterr().err
    assert "in fails" in text
    assert "RuntimeError: refused" in text
    assert BOOTSTRAP not in text
    assert "opensesame" not in text


async def test_lines_of_a_reconcile_say_which(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")

    async def reconcile(name: str) -> None:
        RECONCILE.set(("dpu", Key("n", name), f"id-{name}"))
        await asyncio.sleep(0)
        get_logger("module").info("said")

    async with asyncio.TaskGroup() as group:
        for name in ("a", "b"):
            group.create_task(reconcile(name))
    get_logger("module").info("after")
    lines = [orjson.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line.get("controller"), line.get("object"), line.get("reconcile")) for line in lines] == [
        ("dpu", "n/a", "id-a"),
        ("dpu", "n/b", "id-b"),
        (None, None, None),
    ]


def test_logs_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "console")
    print("report", file=sys.stdout)
    get_logger("module").info("said")
    captured = capsys.readouterr()
    assert captured.out == "report\n"
    assert "said" in captured.err

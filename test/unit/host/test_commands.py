"""Programs that are run: never without a deadline, and a failure says what was printed."""

from __future__ import annotations

import pytest

from dpf.host.commands import CommandFailed, run


async def test_what_a_program_prints_is_returned() -> None:
    assert await run("sh", "-c", "echo out; echo err >&2") == "out\nerr\n"
    assert await run("sh", "-c", "echo out; exit 3", check=False) == "out\n"


async def test_a_program_that_fails_says_how() -> None:
    with pytest.raises(CommandFailed, match=r"sh failed with 3: no such device") as failed:
        await run("sh", "-c", "echo no such device; exit 3")
    assert not failed.value.passing
    with pytest.raises(CommandFailed, match="no-such-program cannot be run: No such file"):
        await run("no-such-program")


async def test_a_program_that_hangs_is_killed() -> None:
    with pytest.raises(CommandFailed, match=r"sh was not done after 0.05 s") as failed:
        await run("sh", "-c", "exec sleep 1000", timeout=0.05)
    assert failed.value.passing

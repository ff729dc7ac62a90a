"""The rate of a download, the time it still takes, and when it is too slow."""

from __future__ import annotations

from dpf.provisioning.bfb.progress import PATIENCE, SLOWEST, Progress


def running(rate: int, seconds: int, *, total: int = 0, every: int = 5) -> Progress:
    progress = Progress(total=total)
    progress.mark(1000.0)
    for second in range(every, seconds + 1, every):
        progress.have = rate * second
        progress.mark(1000.0 + second)
    return progress


def test_the_rate_and_what_is_left_of_it() -> None:
    progress = running(1000, 20, total=50_000)
    assert (progress.rate, progress.left, progress.missing) == (1000, 30, 30_000)


def test_nothing_is_known_at_first_or_without_a_length() -> None:
    assert (Progress(total=7).rate, Progress(total=7).left) == (0, None)
    assert running(1000, 20).left is None


def test_the_rate_is_that_of_the_last_minute() -> None:
    progress = running(1000, 300)
    for second in range(305, 400, 5):
        progress.have += 10_000
        progress.mark(1000.0 + second)
    assert progress.rate == 2000


def test_what_stands_still_says_nothing_new() -> None:
    progress = running(1000, 20, total=50_000)
    assert not progress.mark(1025.0)
    assert (progress.rate, progress.left) == (1000, 30)


def test_a_trickle_is_slow_when_it_lasts() -> None:
    assert not running(SLOWEST - 1, int(PATIENCE) - 5).slow(1000.0 + PATIENCE - 5)
    assert running(SLOWEST - 1, int(PATIENCE)).slow(1000.0 + PATIENCE)
    assert not running(SLOWEST, int(PATIENCE)).slow(1000.0 + PATIENCE)
    assert running(SLOWEST - 1, 10 * int(PATIENCE)).slow(1000.0 + 10 * PATIENCE)


def test_what_was_fast_until_now_has_as_long() -> None:
    progress = running(10 * SLOWEST, 600)
    at = 1600.0
    while not progress.slow(at):
        at += 5.0
        progress.mark(at)
    assert at - 1600.0 > PATIENCE / 2
    assert not Progress().slow(1e9), "nothing was asked for yet"

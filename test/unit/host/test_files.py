"""Small files that are whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dpf.host import files


def test_a_file_is_replaced_and_readable_by_all_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.put(tmp_path / "deep" / "file", "one\n")
        files.put(tmp_path / "deep" / "file", "two\n")
    finally:
        os.umask(before)
    assert (tmp_path / "deep" / "file").read_text() == "two\n"
    assert (tmp_path / "deep" / "file").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_file_is_under_its_name_on_the_disk_before_anything_is_done_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, bool]] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), (tmp_path / "file").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    files.put(tmp_path / "file", b"\x00secret", mode=0o600)
    assert synced == [(False, False), (True, True)]
    assert (tmp_path / "file").read_bytes() == b"\x00secret"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.put(tmp_path / "file", "one\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.put(tmp_path / "file", "two\n")
    assert (tmp_path / "file").read_text() == "one\n"

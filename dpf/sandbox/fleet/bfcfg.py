"""Reads a bf.cfg as a card's installer does: a shell fragment whose function ``bfb_modify_os`` writes files by heredoc.

Only what the fleet needs is read: the files that heredocs write, and among them cloud-init's user-data. Nothing is executed.
"""

from __future__ import annotations

import re

USER_DATA = "/mnt/var/lib/cloud/seed/nocloud-net/user-data"

_HEREDOC = re.compile(r"<<(?P<dash>-?)\s*(?P<quote>['\"]?)(?P<word>[A-Za-z_][A-Za-z0-9_]*)(?P=quote)")
_TARGET = re.compile(r">>?\s*(?P<path>['\"]?[^\s<>|;&'\"]+['\"]?)")


class BadBfCfg(ValueError):
    """The text is not a bf.cfg that a card could boot from."""


def written_files(bf_cfg: str) -> dict[str, str]:
    """What each heredoc of the fragment writes, by path; text that is appended follows what is there.

    :raises BadBfCfg: if a heredoc is never ended.
    """
    files: dict[str, str] = {}
    lines = iter(bf_cfg.splitlines())
    for line in lines:
        here, target = _HEREDOC.search(line), _TARGET.search(line)
        if here is None or line.lstrip().startswith("#"):
            continue
        body: list[str] = []
        for inner in lines:
            text = inner.lstrip("\t") if here["dash"] else inner
            if text == here["word"]:
                break
            body.append(text)
        else:
            raise BadBfCfg(f"heredoc {here['word']} is not ended")
        if target is not None:
            path = target["path"].strip("'\"")
            before = files.get(path, "") if ">>" in line.replace(here.group(0), "") else ""
            files[path] = before + "".join(f"{text}\n" for text in body)
    return files


def user_data(bf_cfg: str) -> str:
    """The cloud-init user-data that the installer puts on the card.

    :raises BadBfCfg: if there is none: such a card would boot without a configuration.
    """
    files = written_files(bf_cfg)
    if USER_DATA not in files:
        raise BadBfCfg(f"nothing writes {USER_DATA}")
    return files[USER_DATA]

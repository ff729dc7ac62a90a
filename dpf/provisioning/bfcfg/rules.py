"""What a flavor's fields may hold, so that each arrives on the card as it is written and none spoils the rest of bf.cfg."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from dpf.provisioning.bfcfg.shell import unreadable
from dpf_api.dpuflavor import DPUFlavorSpec

PASSWORD = "ubuntu_PASSWORD"  # noqa: S105  (the parameter's name)
MODE = re.compile(r"(0o)?0?[0-7]{1,4}")
PLAIN = re.compile(r"[\w./:,+-]+=[\w./:,+-]*", re.ASCII)
"""What needs no shell to be found complete."""
ASKED = 100
"""Entries that the shell is asked of one by one, to name the one that is not: the longest list would take minutes."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Found = tuple[str, str]
"""A field, as the API spells it, and the rule that it breaks."""


def broken(flavor: DPUFlavorSpec) -> Found | None:
    """The first field that breaks a rule; None if none does."""
    return next(_broken(flavor), None)


def password(entry: str) -> str | None:
    """The password that an entry of bfcfgParameters sets, without the quotes around it; None if it sets none."""
    key, equals, value = entry.partition("=")
    if key.strip() != PASSWORD or not equals:
        return None
    # People write it quoted for a shell; here it is data.
    value = value.strip()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _broken(flavor: DPUFlavorSpec) -> Iterator[Found]:
    for i, text in enumerate(flavor.bfcfg_parameters):
        hashed = password(text)
        if hashed is not None and (not hashed.isprintable() or re.search(r"[\s'\":]", hashed)):
            rule = f"{PASSWORD} must be a password hash, without blanks, quotes, colons and control characters in it"
            yield f"spec.bfcfgParameters[{i}]", rule
    yield from _unread(flavor.bfcfg_parameters)
    for i, text in enumerate(flavor.grub.kernel_parameters):
        if CONTROL.search(text):
            yield f"spec.grub.kernelParameters[{i}]", "must be on one line and have no control characters"
    yield from _nuls("spec.sysctl.parameters", flavor.sysctl.parameters)
    for entry in flavor.nvconfig[:1]:
        yield from _nuls("spec.nvconfig[0].parameters", entry.parameters)
    if "\0" in flavor.ovs.raw_config_script:
        yield "spec.ovs.rawConfigScript", "must have no NUL characters: no shell reads them"
    for i, file in enumerate(flavor.config_files):
        if "\0" in file.path:
            yield f"spec.configFiles[{i}].path", "must have no NUL characters: no file is called so"
        if file.permissions and not MODE.fullmatch(file.permissions):
            yield f"spec.configFiles[{i}].permissions", 'must be a mode in octal digits, such as "0644"'
    endpoint = flavor.containerd_config.registry_endpoint
    if CONTROL.search(endpoint) or re.search(r"\s", endpoint):
        yield (
            "spec.containerdConfig.registryEndpoint",
            "must be a URL on one line, without blanks and control characters in it",
        )


def _unread(parameters: Sequence[str]) -> Iterator[Found]:
    """They are lines of one text: what one begins another may end."""
    lines = [(i, text) for i, text in enumerate(parameters) if password(text) is None]
    if why := unreadable("\n".join(text for _, text in lines)):
        doubtful = islice(((i, text) for i, text in lines if not PLAIN.fullmatch(text)), ASKED)
        alone = next((i for i, text in doubtful if unreadable(text)), None)
        field = "spec.bfcfgParameters" if alone is None else f"spec.bfcfgParameters[{alone}]"
        yield field, f"must be complete for the shell that reads bf.cfg: {why}"


def _nuls(field: str, texts: Iterable[str]) -> Iterator[Found]:
    for i, text in enumerate(texts):
        if "\0" in text:
            yield f"{field}[{i}]", "must have no NUL characters"

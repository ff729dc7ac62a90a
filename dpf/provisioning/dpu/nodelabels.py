"""The labels of the card's Node: those that follow from its DPU (its host, the image it runs), and those that no Node can have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.labels import KEY, KEY_RULE, LONGEST, LONGEST_PREFIX, VALUE, VALUE_RULE
from dpf_api.names import LABEL_DOCA_BFB_VERSION, LABEL_HOST


def missing(dpu: DPU, bfb: BFB | None) -> dict[str, str]:
    """What the DPU's spec does not say yet of its Node's labels: the host, and the version of the image if it is known."""
    wanted = {LABEL_HOST: _fitting(dpu.spec.node_name)}
    if bfb is not None:
        wanted[LABEL_DOCA_BFB_VERSION] = bfb_version(bfb.spec.url)
    return {key: value for key, value in wanted.items() if dpu.spec.cluster.node_labels.get(key) != value}


def bfb_version(url: str) -> str:
    """The version that an image's URL tells, as a label value: its file name without the extension, made to fit."""
    # A query may be a signature, which is nobody's business but the server's.
    name = url.partition("?")[0].rpartition("/")[2]
    return _fitting(name.rpartition(".")[0] or name)


def _fitting(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:LONGEST].strip("._-")


def broken(labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The keys of labels that no Node can have, each with the rule that it or its value breaks."""
    for key, value in labels.items():
        if not re.fullmatch(KEY, key) or len(key.rpartition("/")[0]) > LONGEST_PREFIX:
            yield key, KEY_RULE
        elif not re.fullmatch(VALUE, value):
            yield key, f"{VALUE_RULE}, and not {_shown(value)!r}"


def path(parent: str, key: str) -> str:
    """Where a label stands in its object.

    :param parent: path of the labels.
    """
    return f"{parent}[{_shown(key)}]"


def _shown(text: str) -> str:
    return text if len(text) <= LONGEST + 1 else f"{text[:LONGEST]}..."

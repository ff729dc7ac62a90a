"""The labels of the card's Node that follow from its DPU: which host it is in, and which image it runs."""

from __future__ import annotations

import re

from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.names import LABEL_DOCA_BFB_VERSION, LABEL_HOST


def missing(dpu: DPU, bfb: BFB | None) -> dict[str, str]:
    """What the DPU's spec does not say yet of its Node's labels: the host, and the version of the image if it is known."""
    wanted = {LABEL_HOST: dpu.spec.node_name}
    if bfb is not None:
        wanted[LABEL_DOCA_BFB_VERSION] = bfb_version(bfb.spec.url)
    return {key: value for key, value in wanted.items() if dpu.spec.cluster.node_labels.get(key) != value}


def bfb_version(url: str) -> str:
    """The version that an image's URL tells, as a label value: its file name without the extension, made to fit."""
    # A query may be a signature, which is nobody's business but the server's.
    name = url.partition("?")[0].rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "-", name.rpartition(".")[0] or name)[:63].strip("._-")

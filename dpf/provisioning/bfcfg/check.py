"""Whether a bf.cfg can be made from a flavor: asked when the flavor is created, and again before a host is touched for a DPU that
names it, as it may have been created while no webhook answered."""

from __future__ import annotations

from functools import lru_cache

from dpf.provisioning.bfcfg.render import BfCfg, Unfit, render
from dpf_api.dpuflavor import DPUFlavorSpec

LONGEST_NAME = "n" * 63
"""Of a DPU whose card can join: it is the card's host name."""

LONGEST_JOIN = (
    f"kubeadm join {'h' * 253}:65535 --token {'t' * 23} --discovery-token-ca-cert-hash sha256:{'0' * 64} --v=5"
)
"""For a cluster with the longest name that a server can have."""


def unfit(flavor: DPUFlavorSpec) -> Unfit | None:
    """What keeps a bf.cfg from being made from the flavor; None if nothing does, whatever DPU and cluster are called."""
    return _unfit(flavor.model_dump_json(by_alias=True))


@lru_cache(maxsize=8)
def _unfit(text: str) -> Unfit | None:
    """Rendering takes some 7 ms, and a thousand DPUs have a flavor or two among them: so it is looked up by what it says."""
    flavor = DPUFlavorSpec.model_validate_json(text)
    try:
        render(BfCfg(LONGEST_NAME, flavor, LONGEST_JOIN, extra_reboot=True))
    except Unfit as error:
        return error
    return None

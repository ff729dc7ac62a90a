"""Makes a card's bf.cfg from what is seen of its DPU."""

from __future__ import annotations

from functools import partial

from dpf.provisioning.bfcfg.check import beside
from dpf.provisioning.bfcfg.join import join_command, token_id
from dpf.provisioning.bfcfg.render import BfCfg, render
from dpf.provisioning.dpu.card import Configure
from dpf.provisioning.dpu.needs import host_gone, no_flavor
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.rebootpolicy import resets_itself
from dpf.runtime.errors import Waiting
from dpf.runtime.meta import Key
from dpf.runtime.remote import RemoteClusters
from dpf_api.dpuflavor import DPUFlavorSpec


def configure(remotes: RemoteClusters) -> Configure:
    """The function that makes it, with access to DPU clusters for the join command."""

    async def make(seen: Seen, attempt: int) -> bytes:
        """The bytes of bf.cfg; for one attempt always the same.

        :raises Waiting: if the flavor or the host's Node is missing, or the Node's reboot annotation has no meaning.
        :raises ClusterUnavailable: if the DPU cluster can't be reached.
        :raises Terminal: if it can't be made from this flavor.
        """
        dpu = seen.dpu
        flavor = DPUFlavorSpec() if not dpu.spec.dpu_flavor else seen.flavor.spec if seen.flavor is not None else None
        if flavor is None:
            raise Waiting("DPUFlavorNotFound", no_flavor(dpu))
        if seen.node is None:
            raise Waiting("NodeNotFound", host_gone(dpu))
        try:
            alone = resets_itself(dpu, seen.node, seen.flavor, attempt)
        except ValueError as error:
            raise Waiting("InvalidRebootCommand", str(error)) from error
        remote = remotes.get(Key(dpu.spec.cluster.namespace, dpu.spec.cluster.name))
        kubeconfig = remote.client.transport.kubeconfig
        join = await join_command(remote.client, kubeconfig, dpu.name, token_id(dpu.uid, attempt))
        text = await beside(partial(render, BfCfg(dpu.name, flavor, join, extra_reboot=alone)))
        return text.encode()

    return make

"""The bf.cfg of a DPU: its flavor, its name, and a command to join its cluster. The same bytes for the same attempt."""

from __future__ import annotations

from dpf.provisioning.bfcfg.join import join_command, token_id
from dpf.provisioning.bfcfg.render import BfCfg, render
from dpf.provisioning.dpu import rebootpolicy
from dpf.provisioning.dpu.observe import Seen
from dpf.runtime.errors import Waiting
from dpf.runtime.meta import Key
from dpf.runtime.remote import RemoteClusters
from dpf_api.dpuflavor import DPUFlavor


class Configuration:
    """Makes bf.cfg, with tokens of the DPU clusters."""

    def __init__(self, remotes: RemoteClusters) -> None:
        self._remotes = remotes

    async def __call__(self, seen: Seen, attempt: int) -> bytes:
        """The bf.cfg of a DPU for one attempt.

        :raises Waiting: if the flavor or the host is missing, or the Node says in no known way how to reboot.
        :raises ClusterUnavailable: if the DPU's cluster can't be reached.
        """
        dpu = seen.dpu
        if dpu.spec.dpu_flavor and seen.flavor is None:
            message = f"no DPUFlavor {dpu.spec.dpu_flavor!r} in namespace {dpu.namespace}; create it"
            raise Waiting("DPUFlavorNotFound", message)
        if seen.node is None:
            raise Waiting("NodeNotFound", f"node {dpu.spec.node_name!r} is gone; waiting for it to come back")
        try:
            skip = rebootpolicy.policy(dpu, seen.node).skip
        except ValueError as error:
            raise Waiting("InvalidRebootCommand", str(error)) from None
        remote = self._remotes.get(Key(dpu.spec.cluster.namespace, dpu.spec.cluster.name))
        kubeconfig = remote.client.transport.kubeconfig
        join = await join_command(remote.client, kubeconfig, dpu.name, token_id(dpu.uid, attempt))
        flavor = (seen.flavor or DPUFlavor()).spec
        return render(BfCfg(dpu_name=dpu.name, flavor=flavor, join_command=join, extra_reboot=skip)).encode()

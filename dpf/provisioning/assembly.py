"""Puts the provisioning controllers together."""

from __future__ import annotations

from collections.abc import Callable

from dpf.provisioning.bfb.controller import DOWNLOADS, bfb_controller
from dpf.provisioning.bfb.source import Image
from dpf.provisioning.dpu.card import Configure, Dial, DmsCard
from dpf.provisioning.dpu.certificates import Certificates
from dpf.provisioning.dpu.controller import dpu_controller
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Observer
from dpf.provisioning.dpucluster.allocator import Allocator
from dpf.provisioning.dpucluster.controller import dpucluster_controller
from dpf.provisioning.dpucluster.kubeconfigs import OPAQUE, Kubeconfigs
from dpf.provisioning.dpuset.controller import dpuset_controller
from dpf.provisioning.metrics import Counts, object_metrics
from dpf.provisioning.settings import Settings
from dpf.provisioning.volume import Volume
from dpf.runtime.jobs import Jobs
from dpf.runtime.k8s import Secret
from dpf.runtime.manager import Manager
from dpf.runtime.remote import RemoteClusters
from dpf_api.dpu import Firmware
from dpf_api.dpucluster import DPUCluster

FOLLOWED = 1000
"""Reboots of hosts that an eye is kept on at once: each costs a question to its DMS a minute."""


def add_controllers(
    manager: Manager, settings: Settings, configure: Callable[[RemoteClusters], Configure], dial: Dial
) -> RemoteClusters:
    """Adds the controllers of BFB, DPUSet, DPU and DPUCluster, and what they share, to a manager.

    :param configure: makes bf.cfg, with access to DPU clusters.
    :param dial: reaches DMS.
    :returns: the registry of the DPU clusters.
    """
    cluster, events = manager.cluster, manager.events
    cluster.cache.configure(Secret, fields=OPAQUE)
    if settings.all_dpuclusters:
        cluster.cache.configure(DPUCluster, namespace="")
    counts = Counts()
    manager.metrics.add(counts.collect)
    manager.metrics.add_text(object_metrics(cluster, lambda: all(manager.metrics.leading.values())))
    remotes = RemoteClusters(field_owner=manager.name, metrics=manager.metrics)
    jobs: Jobs[Firmware | None] = Jobs(limit=settings.installs)
    reboots: Jobs[None] = Jobs(limit=FOLLOWED)
    kubeconfigs = Kubeconfigs(cluster)
    allocator, volume = Allocator(cluster), Volume(settings.bfb_dir)
    certificates = Certificates(cluster.client, settings.certificates)
    card = DmsCard(cluster, certificates, jobs, reboots, volume, configure(remotes), dial)
    hands = Hands(
        client=cluster.client,
        remotes=remotes,
        allocator=allocator,
        certificates=certificates,
        card=card,
        jobs=jobs,
        reboots=reboots,
        settings=settings,
        volume=volume,
        events=events,
        counts=counts,
    )
    observer = Observer(cluster, remotes, jobs, reboots, settings, certificates.authorities)
    dpus = dpu_controller(cluster, remotes, observer, hands, manager.options.workers)
    jobs.bind(dpus)
    reboots.bind(dpus)
    downloads: Jobs[Image] = Jobs(limit=DOWNLOADS)
    manager.add(
        downloads,
        bfb_controller(cluster, events, counts, downloads, volume, manager.options.workers),
        remotes,
        kubeconfigs,
        jobs,
        reboots,
        dpuset_controller(cluster, events),
        dpus,
        dpucluster_controller(cluster, remotes, kubeconfigs, allocator, events),
    )
    return remotes

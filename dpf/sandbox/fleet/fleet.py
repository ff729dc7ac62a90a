"""The whole fleet: hosts, cards, pods and what answers for them, put together from options."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.log import get_logger
from dpf.sandbox.api import Api
from dpf.sandbox.fleet import cardapi
from dpf.sandbox.fleet.bootstrap import Bootstrap
from dpf.sandbox.fleet.cards import Card
from dpf.sandbox.fleet.cardstate import Durations
from dpf.sandbox.fleet.containers import EntryPoint
from dpf.sandbox.fleet.discovery import interval
from dpf.sandbox.fleet.hosts import Host
from dpf.sandbox.fleet.kubelet import Kubelet, LeaseTimes
from dpf.sandbox.fleet.maintenance import answer_maintenance
from dpf.sandbox.fleet.pods import Pods
from dpf.sandbox.fleet.podworker import Backoff
from dpf.sandbox.layout import Inventory, Layout

log = get_logger(__name__)


@dataclass(frozen=True)
class FleetOptions:
    """What a fleet is made of."""

    layout: Layout
    inventory: Inventory
    durations: Durations
    entry_points: Mapping[str, EntryPoint]
    """What runs for an image, by its name."""


async def run_fleet(options: FleetOptions) -> None:
    """Runs the fleet until cancelled."""
    layout, inventory = options.layout, options.inventory
    times = LeaseTimes.for_fleet(inventory.dpus)
    async with Api(Kubeconfig.load(layout.host_kubeconfig), user_agent="dpf-fleet") as api, Bootstrap() as bootstrap:
        kubelet = Kubelet(bootstrap, times)
        hosts = _hosts(options, kubelet)
        cards = {card.name: card for host in hosts.values() for card in host.cards}
        pods = Pods(api, layout, hosts, options.entry_points, Backoff())
        runner = await cardapi.serve(cardapi.application(cards, hosts, pods), layout.fleet_socket)
        log.info("fleet_started", hosts=len(hosts), cards=len(cards))
        try:
            async with asyncio.TaskGroup() as group:
                for card in cards.values():
                    group.create_task(card.run())
                for host in hosts.values():
                    group.create_task(host.run(api, times, interval(len(hosts))))
                group.create_task(pods.run())
                group.create_task(answer_maintenance(api, hosts))
        finally:
            await runner.cleanup()


def _hosts(options: FleetOptions, kubelet: Kubelet) -> dict[str, Host]:
    folder, inventory = options.layout.fleet_dir, options.inventory
    hosts = {}
    for name, slots in inventory.hosts.items():
        cards = [Card(slot, folder / "cards" / slot.dpu, options.durations, kubelet) for slot in slots]
        address = inventory.address(name)
        hosts[name] = Host(name, address, cards, folder / "hosts" / name, options.durations.host_reboot)
    return hosts

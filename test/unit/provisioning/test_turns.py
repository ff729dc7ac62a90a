"""Of several cards of one host, which may be flashed and for which the host may be reset."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.install import Order, RebootFailed
from dpf.provisioning.dpu.machine import Pass
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.outcome import Outcome
from dpf.provisioning.dpu.phases import PHASES
from dpf.provisioning.dpu.steps import Advance, Hold, waits
from dpf.provisioning.dpu.story import ATTENTION
from dpf.provisioning.metrics import Counts
from dpf.runtime.errors import ClusterUnavailable, Conflict
from dpf.runtime.meta import Key
from dpf_api.dpu import DPU, ConditionType, DPUStatus, Install, Phase, Retry
from test.unit.provisioning.decided import (
    DMS,
    GOES_FIRST,
    acts,
    changed,
    decided,
    flashed,
    held,
    rebooted,
    reset,
)
from test.unit.provisioning.worlds import IMAGE, NOW, host, see


def test_a_reset_that_is_retried_waits_for_the_flash_that_was_begun_meanwhile() -> None:
    assert held(decided(reset(), flashed(begun=True))) == ("Rebooted", GOES_FIRST)
    assert acts(decided(reset(), flashed(begun=False))) == "send"


def test_a_reset_that_is_retried_waits_for_the_one_that_is_under_way() -> None:
    assert held(decided(reset(), reset("d2", ago=60))) == ("Rebooted", GOES_FIRST)
    assert acts(decided(reset(), reset("d2"))) == "send", "of two that are on record neither waits"


@pytest.mark.parametrize("ago", [None, 0.0, 1700.0], ids=["on record", "asked for", "host is down"])
def test_a_flash_is_not_begun_on_a_host_that_is_about_to_be_reset(ago: float | None) -> None:
    step = decided(flashed(begun=False), reset(ago=ago))
    assert held(step) == ("OSInstalled", GOES_FIRST)
    assert isinstance(step, Hold)
    assert step.after == (1800.0 - (ago or 0.0)), "nobody tells when that time is over"


def test_a_flash_is_begun_once_the_host_is_back_or_its_reset_has_failed() -> None:
    waiting = flashed(begun=False)
    assert acts(decided(waiting, reset(ago=60), node=host("boot-2"))) == "begin"
    assert acts(decided(waiting, reset(ago=1801))) == "begin", "whoever is there then can be flashed"
    failed = reset(ago=60)
    failed = failed.model_copy(update={"status": failed.status.model_copy(update={"phase": Phase.ERROR})})
    assert acts(decided(waiting, failed)) == "begin"
    by_hand = reset(automaticNodeReboot=False, nodeEffect={"noEffect": True})
    assert acts(decided(waiting, by_hand)) == "begin", "a person has been asked for it, and may take long"


def test_a_reset_that_failed_while_no_manager_was_there_is_heard_of_after_its_time_too() -> None:
    late = reset(ago=4000)
    assert acts(decided(late)) == "keep_an_eye"
    step = decided(late, reboot_job=Outcome(done=True, error=RebootFailed("the Arm side did not go down")))
    assert isinstance(step, Advance)
    assert step.phase is Phase.ERROR


def test_a_flash_that_has_begun_is_gone_on_with_while_a_reset_is_only_on_record() -> None:
    begun = flashed(begun=True)
    assert acts(decided(begun, reset())) == "begin"
    assert held(decided(reset(), begun)) == ("Rebooted", GOES_FIRST)
    assert held(decided(begun, reset(ago=60))) == ("OSInstalled", GOES_FIRST), "the host goes down under it"


def states() -> Iterator[tuple[str, str]]:
    names = ["new", "begun", "waits", "on record", "asked", "asked long ago"]
    yield from ((one, other) for one in names for other in names)


def in_state(name: str, state: str) -> DPU:
    match state:
        case "new" | "begun":
            return flashed(name, begun=state == "begun")
        case "waits":
            return rebooted(name)
        case "on record":
            return reset(name)
        case _:
            return reset(name, ago=60 if state == "asked" else 4000)


@pytest.mark.parametrize(("one", "other"), list(states()))
def test_two_cards_of_a_host_never_wait_for_each_other_nor_tear_each_others_flash(one: str, other: str) -> None:
    first, second = in_state("d1", one), in_state("d2", other)
    steps = decided(first, second), decided(second, first)
    waiting = [isinstance(step, Hold) and step.condition.reason == GOES_FIRST for step in steps]
    assert waiting != [True, True]
    assert {acts(step) for step in steps} != {"begin", "send"}
    for step, its in zip(steps, (other, one), strict=True):
        if its == "begun":
            assert acts(step) not in ("announce", "send")


def test_a_hosts_reset_that_was_not_asked_for_is_not_taken_for_another_cards() -> None:
    """The request of the first has failed, the host was reset for the second."""
    second = reset("d2", ago=600)
    step = decided(reset(), second, node=host("boot-2"))
    assert isinstance(step, Advance)
    assert (step.phase, step.changes["install"].boot_id) == (Phase.REBOOTING, "boot-2")
    asked = decided(reset(ago=600), second, node=host("boot-2"))
    assert isinstance(asked, Advance)
    assert asked.phase is Phase.HOST_NETWORK_CONFIGURATION


@pytest.mark.parametrize("first", ["d1", "d2"], ids=["the one on record looks first", "the other looks first"])
@pytest.mark.parametrize("recorded", [False, True], ids=["none is on record", "its manager was killed"])
def test_a_reboot_counts_for_every_card_unless_a_reset_for_another_may_have_been_asked_for(
    first: str, recorded: bool
) -> None:
    dpus = {"d1": reset("d1") if recorded else rebooted("d1"), "d2": rebooted("d2")}
    for mine in (first, {"d1": "d2", "d2": "d1"}[first]):
        others = [each for each in dpus.values() if each.name != mine]
        step = decided(dpus[mine], *others, node=host("boot-2"))
        assert isinstance(step, Advance)
        dpus[mine] = changed(dpus[mine], {**step.changes, "phase": step.phase})
    assert dpus["d1"].status.phase is Phase.HOST_NETWORK_CONFIGURATION
    assert dpus["d2"].status.phase is (Phase.REBOOTING if recorded else Phase.HOST_NETWORK_CONFIGURATION)


def test_a_reboot_by_hand_counts_for_every_card_whose_reset_has_failed() -> None:
    said = waits(ConditionType.REBOOTED, "RebootFailed", "mlxfwreset: no such device")
    update = {"phase": Phase.ERROR, "conditions": [said], "retry": Retry(pending=True)}
    dpus = [changed(reset(name, ago=600), update) for name in ("d1", "d2")]
    node = host("boot-2")
    for mine, others in ((0, 1), (1, 0)):
        for _ in range(2):  # out of Error, and through Rebooting
            step = decided(dpus[mine], dpus[others], node=node)
            assert isinstance(step, Advance)
            dpus[mine] = changed(dpus[mine], {**step.changes, "phase": step.phase})
        assert dpus[mine].status.phase is Phase.HOST_NETWORK_CONFIGURATION


class Host:
    """The DPUs of a host, its API server, and a card that takes its time to be prepared."""

    def __init__(self, *dpus: DPU) -> None:
        self.dpus = {dpu.key: dpu for dpu in dpus}
        self.did: list[str] = []
        self.error: Exception | None = None
        self.preparing, self.prepare_on = asyncio.Event(), asyncio.Event()
        self.writing, self.write_on, self.writes = asyncio.Event(), asyncio.Event(), 0
        self.write_on.set()

    def current(self, key: Key) -> DPU:
        return self.dpus[key]

    def look(self, dpu: DPU) -> Seen:
        siblings = tuple(each for each in self.dpus.values() if each.uid != dpu.uid)
        job = Outcome() if dpu.status.install is not None and dpu.status.install.config_sha256 else None
        eye = Outcome() if "eye" in self.did else None
        return see(dpu, dms_pod=DMS, siblings=siblings, job=job, reboot_job=eye)

    def status(self, dpu: DPU) -> Any:
        async def write(status: DPUStatus) -> DPU:
            self.writes += status != dpu.status
            self.writing.set()
            await self.write_on.wait()
            self.dpus[dpu.key] = dpu.model_copy(update={"status": status})
            return self.dpus[dpu.key]

        return SimpleNamespace(set=write)

    def follow_reboot(self, *_: Any) -> None:
        self.did.append("eye")

    async def merge_patch(self, *_: Any) -> None:
        """Labels of the card's Node."""

    async def prepare(self, seen: Seen, attempt: int) -> Order:
        self.preparing.set()
        await self.prepare_on.wait()
        if self.error is not None:
            raise self.error
        return Order(seen.dpu.name, "image.bfb", IMAGE, b"")

    def start(self, *_: Any) -> None:
        self.did.append("flash")

    async def reboot(self, *_: Any) -> None:
        self.did.append("reset")

    def reason(self, name: str) -> str:
        return self.dpus[Key("ns", name)].status.reason


def hands_of(world: Host) -> Hands:
    part, unused = cast("Any", world), cast("Any", None)
    events = cast("Any", SimpleNamespace(normal=lambda *_, **__: None, warning=lambda *_, **__: None))
    return Hands(part, unused, unused, unused, part, unused, unused, unused, unused, events, Counts())


async def test_nothing_comes_between_the_look_at_the_others_and_the_flash() -> None:
    """The host's reset is to be put on record while the flash of another card, which was decided on before, is prepared."""
    world = Host(rebooted("d1"), flashed("d2", begun=False))
    hands = hands_of(world)
    observer = cast("Any", world)
    flash, resets = (Pass(dpu, observer, hands).run(PHASES.__getitem__) for dpu in reversed(world.dpus.values()))
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(flash)
        await world.preparing.wait()
        tasks.create_task(resets)
        while not hands.hosts["worker1"]._waiters:  # nothing else tells
            await asyncio.sleep(0)
        world.prepare_on.set()
    assert world.did == ["flash"]
    assert (world.reason("d1"), world.reason("d2")) == (GOES_FIRST, "Installing")
    assert world.current(Key("ns", "d1")).status.reboot is None


async def test_what_was_decided_on_a_status_that_another_manager_has_changed_since_is_not_done() -> None:
    """The leader before wrote last that the card has failed; that is heard of in the middle of a pass."""
    begun = flashed("d2", begun=True)
    world = Host(begun)
    said = [waits(ConditionType.OS_INSTALLED, "InstallationFailed", "the card is broken")]
    run = asyncio.create_task(Pass(begun, cast("Any", world), hands_of(world)).run(PHASES.__getitem__))
    await world.preparing.wait()
    world.dpus[begun.key] = changed(begun, {"phase": Phase.ERROR, "conditions": said})
    world.prepare_on.set()
    with pytest.raises(Conflict):
        await run
    assert (world.did, world.current(begun.key).status.phase) == ([], Phase.ERROR)


async def test_nothing_comes_between_the_request_to_reset_and_its_record() -> None:
    """A flash that was begun by an earlier manager, and may take no longer, has its turn while the request is written."""
    stale = flashed("d2", begun=True)
    said = waits(ConditionType.OS_INSTALLED, "DPUClusterClientGetError", "cluster ns/c can't be reached")
    began = Install(started_at=NOW - timedelta(seconds=1801))
    world = Host(reset("d1"), changed(stale, {"install": began, "conditions": [*stale.status.conditions, said]}))
    world.prepare_on.set()
    world.write_on.clear()
    hands = hands_of(world)
    resets, flash = (Pass(dpu, cast("Any", world), hands).run(PHASES.__getitem__) for dpu in world.dpus.values())
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(resets)
        await world.writing.wait()
        written = world.writes
        tasks.create_task(flash)
        world.write_on.set()
    assert world.did == ["reset", "eye"]
    assert (world.reason("d1"), world.reason("d2")) == ("Rebooting", GOES_FIRST)
    assert (written, world.writes) == (1, 2), "the request is one write, and the other's wait another"


@pytest.mark.parametrize("ago", [600, 1801])
async def test_a_flash_that_can_not_be_gone_on_with_for_want_of_its_cluster_holds_the_host_no_longer_than_it_may_take(
    ago: float,
) -> None:
    """A manager has begun it, and the next one can't reach the DPU cluster."""
    began = NOW - timedelta(seconds=ago)
    begun = changed(flashed(begun=True), {"install": Install(started_at=began)})
    world = Host(begun)
    world.error = ClusterUnavailable("ns/c", "cluster ns/c can't be reached")
    world.prepare_on.set()
    with pytest.raises(ClusterUnavailable):
        await Pass(begun, cast("Any", world), hands_of(world)).run(PHASES.__getitem__)
    assert (world.reason("d2"), "DPUClusterClientGetError" in ATTENTION) == ("DPUClusterClientGetError", True)
    step = decided(rebooted("d1"), world.current(begun.key))
    assert (isinstance(step, Hold), acts(step)) == ((True, "") if ago < 1800 else (False, "announce"))

"""A DPU that is deleted while its host is being reset, beside others of the host."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpf.provisioning.dpu import deleting
from dpf.provisioning.dpu.controller import DPUReconciler, dpu_stands
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.install import RebootFailed
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.outcome import Outcome
from dpf.provisioning.dpu.steps import Hold, waits
from dpf.provisioning.metrics import Counts
from dpf.provisioning.settings import Settings
from dpf.runtime.errors import ClusterUnavailable
from dpf.runtime.meta import Key, Object
from dpf_api.dpu import DPU, ConditionType, DPUStatus, Phase
from test.unit.provisioning.decided import (
    DMS,
    GOES_FIRST,
    STAMPED,
    acts,
    changed,
    decided,
    flashed,
    held,
    rebooted,
    reset,
    stamped,
)
from test.unit.provisioning.worlds import NOW, host, pod, see


def test_a_host_goes_down_though_the_dpu_that_had_it_reset_is_deleted() -> None:
    leaving = reset(ago=60)
    meta = leaving.metadata.model_copy(update=STAMPED)
    for phase in (Phase.REBOOTING, Phase.DELETING):
        gone = leaving.model_copy(
            update={"metadata": meta, "status": leaving.status.model_copy(update={"phase": phase})}
        )
        assert held(decided(flashed(begun=False), gone)) == ("OSInstalled", GOES_FIRST)


def test_a_dpu_that_is_deleted_stays_until_its_host_is_back_from_its_reset_if_that_has_others() -> None:
    asked = reset(ago=60)
    gone = asked.metadata.model_copy(update=STAMPED)
    waiting = flashed(begun=False)
    for phase in (Phase.REBOOTING, Phase.DELETING):
        leaving = changed(asked, {"phase": phase}).model_copy(update={"metadata": gone})
        hold = deleting.unfinished(see(leaving, siblings=(waiting,)))
        assert hold is not None
        assert (held(hold), hold.after) == (("Ready", "Rebooting"), 1740), "the host's Node tells when it is back"
        assert "node worker1 to come back from its reboot" in hold.condition.message
        assert deleting.unfinished(see(leaving)) is None, "it is the only one"
        also_gone = waiting.model_copy(update={"metadata": waiting.metadata.model_copy(update=STAMPED)})
        assert deleting.unfinished(see(leaving, siblings=(also_gone,))) is None
        for node in (host("boot-2"), None):
            assert deleting.unfinished(see(leaving, siblings=(waiting,), node=node)) is None


@pytest.mark.parametrize("record", [rebooted(), reset(ago=1801)], ids=["not on record", "long ago"])
def test_a_dpu_that_is_deleted_does_not_stay_for_a_reset_that_does_not_come(record: DPU) -> None:
    leaving = stamped(changed(record, {"phase": Phase.DELETING}))
    assert deleting.unfinished(see(leaving, siblings=(flashed(begun=False),))) is None


@pytest.mark.parametrize("phase", [Phase.REBOOTING, Phase.DELETING])
def test_a_reset_that_may_have_been_asked_for_is_waited_for_though_its_dpu_is_deleted(phase: Phase) -> None:
    """Its manager was killed before that was on record, or no answer came."""
    leaving, waiting = stamped(changed(reset(), {"phase": phase})), flashed(begun=False)
    hold = deleting.unfinished(see(leaving, siblings=(waiting,)))
    assert hold is not None
    assert (held(hold), hold.after) == (("Ready", "Rebooting"), 1800)
    assert held(decided(waiting, leaving)) == ("OSInstalled", GOES_FIRST)


class Leaving:
    """A DPU that is deleted beside one that waits for a flash, looked at by its reconciler as it stands after each pass."""

    def __init__(self, leaving: DPU, **around: Any) -> None:
        self.dpu = stamped(leaving)
        self.waiting = flashed(begun=False)
        self.around: dict[str, Any] = {"dms_pod": DMS, "cluster": None, **around}
        self.did: list[str] = []
        part, unused = cast("Any", self), cast("Any", None)
        jobs = cast("Any", SimpleNamespace(cancel=lambda _: None))
        volume = cast("Any", SimpleNamespace(folder=Path("/bfb"), ask=self.ask))
        self.told: list[str] = []
        events = cast("Any", SimpleNamespace(normal=lambda *_, **__: None, warning=self.warning))
        hands = Hands(part, part, unused, unused, part, jobs, part, Settings(), volume, events, Counts())
        self.reconciler = DPUReconciler(part, hands)

    def look(self, dpu: DPU) -> Seen:
        return see(dpu, siblings=(self.waiting,), **self.around)

    def current(self, _: Key) -> DPU:
        return self.dpu

    def status(self, dpu: DPU) -> Any:
        async def write(status: DPUStatus) -> DPU:
            self.dpu = dpu.model_copy(update={"status": status})
            return self.dpu

        return SimpleNamespace(set=write)

    def warning(self, _: Any, reason: str, *__: Any, **___: Any) -> None:
        self.told.append(reason)

    async def ask(self, *_: Any) -> None:
        """Of the volume."""

    def get(self, key: Key) -> Any:
        raise ClusterUnavailable(str(key), "it is gone")

    async def delete(self, obj: Object) -> None:
        self.did.append(obj.name)
        if obj.name == "d1-dms":
            self.around["dms_pod"] = None

    def follow_reboot(self, *_: Any) -> None:
        self.did.append("eye")
        self.around["reboot_job"] = Outcome()

    def cancel(self, _: Key) -> None:
        self.did.append("cancel")
        self.around["reboot_job"] = None

    async def passes(self, count: int = 3) -> None:
        for _ in range(count):
            await self.reconciler.finalize(self.dpu)

    def holds_the_other(self) -> bool:
        return isinstance(decided(self.waiting, self.dpu), Hold)


async def test_a_dms_that_may_be_at_the_hosts_reset_is_left_until_that_is_over() -> None:
    world = Leaving(reset(ago=60))
    await world.passes()
    assert world.did == ["eye"]
    assert (world.dpu.status.reason, world.holds_the_other()) == ("Rebooting", True)
    world.around["node"] = host("boot-2")
    await world.passes(1)
    assert world.did == ["eye", "cancel", "d1-dms", "d1-server-secret"]


async def test_a_reset_that_fails_while_its_dpu_is_deleted_holds_nobody_any_more() -> None:
    world = Leaving(reset(ago=60), reboot_job=Outcome(done=True, error=RebootFailed("ipmitool: no such device")))
    before = dpu_stands(world.dpu)
    await world.passes(1)
    assert "ipmitool: no such device" in world.dpu.status.message
    assert world.told == ["RebootFailed"]
    assert dpu_stands(world.dpu) != before, "the others of the host are woken"
    await world.passes(2)
    assert "d1-dms" in world.did
    assert "d1-server-secret" in world.did, "there is nothing to wait for"
    assert not world.holds_the_other()


async def test_a_dpu_that_was_not_at_its_hosts_reset_when_it_was_deleted_holds_nobody() -> None:
    """Its request is on record for another try, which there will not be."""
    world = Leaving(changed(reset(), {"phase": Phase.ERROR}), hostnetwork_pod=pod("d1-hostnetwork"))
    assert not world.holds_the_other()
    await world.passes()
    assert (world.dpu.status.phase, world.dpu.status.reason) == (Phase.DELETING, "PodsEnding")
    assert not world.holds_the_other()


def test_pods_that_had_to_wait_for_the_hosts_reset_have_their_time_to_end_from_then_on() -> None:
    def hold(told: float | None) -> Hold | None:
        stamp = {"deletion_timestamp": NOW - timedelta(seconds=told)} if told is not None else {}
        dms = DMS.model_copy(update={"metadata": DMS.metadata.model_copy(update=stamp)})
        leaving = changed(reset(ago=760), {"phase": Phase.DELETING})
        asked = {"deletion_timestamp": NOW - timedelta(seconds=700)}
        leaving = leaving.model_copy(update={"metadata": leaving.metadata.model_copy(update=asked)})
        return deleting.unfinished(see(leaving, node=host("boot-2"), dms_pod=dms))

    for told, reason, after in ((None, "PodsEnding", 300), (10, "PodsEnding", 290), (301, "PodsDoNotEnd", None)):
        found = hold(told)
        assert found is not None
        assert (found.condition.reason, found.after) == (reason, after)


def test_a_reset_that_has_failed_holds_nothing_when_its_dpu_is_deleted() -> None:
    said = waits(ConditionType.REBOOTED, "RebootFailed", "mlxfwreset: no such device")
    leaving = changed(reset(ago=60), {"phase": Phase.DELETING, "conditions": [said]})
    waiting = flashed(begun=False)
    assert deleting.unfinished(see(leaving, siblings=(waiting,))) is None
    assert acts(decided(waiting, leaving)) == "begin"

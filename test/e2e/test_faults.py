"""What can go wrong with a card: the DPU says so, in words that name the next step, and other DPUs go on."""

from __future__ import annotations

from dpf.runtime import conditions
from dpf.runtime.testing import eventually
from dpf.sandbox.layout import NAMESPACE
from dpf_api.dpu import DPU, Phase
from test.e2e.conftest import Box


async def test_a_card_that_cannot_be_flashed_says_so_and_others_go_on(box: Box, host: str) -> None:
    await box.fault(f"{host}-0000-04-00", "install-fails")
    dpu = await box.provision(host)
    broken = await eventually(
        box.client, DPU, dpu, NAMESPACE, until=lambda obj: obj.status.phase is Phase.ERROR, timeout=60
    )
    condition = conditions.find(broken.status.conditions, "OSInstalled")
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "InstallationFailed")
    assert condition.message
    other = await box.provision(box.hosts.pop(0))
    await box.ready(other)
    await box.fault(dpu, "")


async def test_a_card_that_falls_back_to_its_old_image_has_failed(box: Box, host: str) -> None:
    dpu = f"{host}-0000-04-00"
    await box.fault(dpu, "wrong-version")
    await box.provision(host)
    assert "came up with factory" in await box.waits(dpu, "InstallationFailed")
    await box.fault(dpu, "")


async def test_an_installation_that_hangs_says_how_far_it_is_and_goes_on_when_the_card_does(
    box: Box, host: str
) -> None:
    dpu = f"{host}-0000-04-00"
    await box.fault(dpu, "install-hangs")
    await box.provision(host)
    assert "bf-bundle" in await box.waits(dpu, "Installing")
    await box.fault(dpu, "")
    await box.ready(dpu)


async def test_a_host_that_does_not_come_back_is_named_and_waited_for(box: Box, host: str) -> None:
    dpu = f"{host}-0000-04-00"
    await box.fault(dpu, "host-does-not-come-back")
    await box.provision(host)
    assert host in await box.waits(dpu, "Rebooting")
    await box.fault(dpu, "")
    await box.ready(dpu)
    assert (await box.card(dpu))["hostReboots"] == 1


async def test_a_pod_that_crash_loops_is_named_with_its_container_and_the_dpu_goes_on_when_it_runs(
    box: Box, host: str
) -> None:
    dpu = f"{host}-0000-04-00"
    await box.fault(dpu, "pod-crash-loops")
    await box.provision(host)
    message = await box.waits(dpu, "DMSPodNotRunning")
    assert f"container dms of pod {dpu}-dms" in message
    assert "CrashLoopBackOff" in message
    await box.fault(dpu, "")
    await box.ready(dpu)


async def test_a_card_that_never_joins_says_what_is_waited_for(box: Box, host: str) -> None:
    await box.fault(f"{host}-0000-04-00", "never-joins")
    dpu = await box.provision(host)
    waiting = await box.in_phase(dpu, Phase.DPU_CLUSTER_CONFIG)
    assert waiting.status.phase is Phase.DPU_CLUSTER_CONFIG
    assert waiting.status.reason
    assert dpu in waiting.status.message
    await box.fault(dpu, "")

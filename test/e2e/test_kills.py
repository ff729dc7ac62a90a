"""kill -9 in every phase of a DPU: it becomes Ready all the same, and its card was flashed once and its host rebooted once."""

from __future__ import annotations

import pytest

from dpf_api.dpu import Phase
from test.e2e.conftest import Box

PHASES = (
    Phase.INITIALIZING,
    Phase.NODE_EFFECT,
    Phase.PENDING,
    Phase.DMS_DEPLOYMENT,
    Phase.OS_INSTALLING,
    Phase.REBOOTING,
    Phase.HOST_NETWORK_CONFIGURATION,
    Phase.DPU_CLUSTER_CONFIG,
)


async def flashed_once(box: Box, dpu: str) -> None:
    await box.ready(dpu)
    card = await box.card(dpu)
    done = {key: card[key] for key in ("installs", "activates", "hostReboots", "joins")}
    assert done == {"installs": 1, "activates": 1, "hostReboots": 1, "joins": 1}


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name.lower())
async def test_a_provisioning_manager_that_is_killed_goes_on_where_the_card_is(
    box: Box, host: str, phase: Phase
) -> None:
    dpu = await box.provision(host)
    await box.in_phase(dpu, phase)
    await box.kill("provisioning-manager")
    await flashed_once(box, dpu)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name.lower())
async def test_a_provisioning_manager_that_is_killed_before_it_could_note_what_it_did_does_nothing_twice(
    box: Box, host: str, phase: Phase
) -> None:
    dpu = await box.provision(host, until=phase)
    await box.held(dpu)
    await box.kill("provisioning-manager")
    await box.goes_on(host)
    await flashed_once(box, dpu)


@pytest.mark.parametrize("phase", PHASES[3:], ids=lambda phase: phase.name.lower())
async def test_a_dms_that_is_killed_goes_on_where_the_card_is(box: Box, host: str, phase: Phase) -> None:
    dpu = await box.provision(host)
    await box.in_phase(dpu, phase)
    assert await box.pid(f"{dpu}-dms"), "it is a process of its own"
    await box.kill(f"{dpu}-dms")
    await flashed_once(box, dpu)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name.lower())
async def test_a_static_cluster_manager_that_is_killed_is_not_missed(box: Box, host: str, phase: Phase) -> None:
    dpu = await box.provision(host)
    await box.in_phase(dpu, phase)
    await box.kill("static-cluster-manager")
    await flashed_once(box, dpu)


async def test_everything_is_killed_at_once(box: Box, host: str) -> None:
    dpu = await box.provision(host)
    await box.in_phase(dpu, Phase.OS_INSTALLING)
    for process in (f"{dpu}-dms", "provisioning-manager", "static-cluster-manager", "host-apiserver"):
        await box.kill(process)
    await flashed_once(box, dpu)

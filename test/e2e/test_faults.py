"""What can go wrong with a card: the DPU says so, in words that name the next step, and other DPUs go on."""

from __future__ import annotations

from dpf.runtime import conditions
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually
from dpf.sandbox.layout import NAMESPACE
from dpf_api.bfb import BFB, BFBSpec
from dpf_api.dpu import DPU, Phase
from dpf_api.dpuset import DPUSet, StrategyType
from test.e2e.conftest import READY_WITHIN, Box


async def test_a_card_that_cannot_be_flashed_says_so_and_others_go_on(box: Box, host: str) -> None:
    await box.fault(f"{host}-0000-04-00", "install-fails")
    dpu = await box.provision(host)
    broken = await eventually(
        box.client, DPU, dpu, NAMESPACE, until=lambda obj: obj.status.phase is Phase.ERROR, timeout=READY_WITHIN
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


async def test_a_dms_that_never_answers_is_named_and_the_dpu_goes_on_when_it_does(box: Box, host: str) -> None:
    dpu = f"{host}-0000-04-00"
    await box.fault(dpu, "dms-silent")
    await box.provision(host)
    assert "DMS does not answer, it is tried again" in await box.waits(dpu, "DMSUnreachable")
    await box.fault(dpu, "")
    await box.ready(dpu)
    assert (await box.card(dpu))["installs"] == 1


async def test_a_card_that_never_joins_says_what_is_waited_for(box: Box, host: str) -> None:
    await box.fault(f"{host}-0000-04-00", "never-joins")
    dpu = await box.provision(host)
    waiting = await box.in_phase(dpu, Phase.DPU_CLUSTER_CONFIG)
    assert waiting.status.phase is Phase.DPU_CLUSTER_CONFIG
    assert waiting.status.reason
    assert dpu in waiting.status.message
    await box.fault(dpu, "")


async def test_a_wrong_url_holds_up_nobody_else_and_is_mended_by_another_bfb_in_the_template(
    box: Box, host: str
) -> None:
    url = box.settings.bfb_url

    async def bfb(name: str, url: str) -> BFB:
        return await box.client.create(BFB(metadata=ObjectMeta(name=name, namespace=NAMESPACE), spec=BFBSpec(url=url)))

    wrong = await bfb(f"wrong-{host}", url.replace(".bfb", "-missing.bfb"))
    dpu = await box.provision(host, bfb={"name": wrong.name})
    message = await box.waits(dpu, "BFBFailed")
    assert wrong.name in message
    assert "404" in message

    await box.ready(await box.provision(box.hosts.pop(0)))
    waiting = await box.client.get(DPU, dpu, NAMESPACE)
    assert waiting.status.phase is Phase.PENDING

    right = await bfb(f"right-{host}", url)
    dpuset = await box.client.get(DPUSet, f"set-{host}", NAMESPACE)
    assert dpuset.spec.strategy is not None
    assert dpuset.spec.strategy.type is StrategyType.ROLLING_UPDATE
    template = {"spec": {"dpuTemplate": {"spec": {"bfb": {"name": right.name}}}}}
    await box.client.merge_patch(dpuset, template)
    ready = await box.ready(dpu)
    assert ready.spec.bfb == right.name
    assert ready.uid != waiting.uid
    card = await box.card(dpu)
    assert {key: card[key] for key in ("installs", "activates", "joins")} == {"installs": 1, "activates": 1, "joins": 1}

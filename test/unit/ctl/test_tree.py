"""The tree that ``dpfctl describe`` draws."""

from __future__ import annotations

import pytest

from dpf.ctl import tree
from dpf.ctl.describe import whose
from dpf.ctl.tree import World
from dpf.runtime.errors import ConfigError
from dpf_api.bfb import BFB
from test.unit.ctl.objects import condition, dpu, dpuset, pod

BROKEN = {
    "phase": "Error",
    "reason": "InstallationFailed",
    "message": "write error",
    "conditions": [
        condition("Initialized", True),
        condition("OSInstalled", False, "InstallationFailed", "write error"),
    ],
}


def drawn(world: World, conditions: str = "none", *, together: bool = False) -> list[str]:
    item = tree.build(world)
    return [row["name"] for row in tree.lines(tree.grouped(item, conditions) if together else item, conditions)]


def test_what_is_owned_hangs_below_its_owner() -> None:
    one = dpu("a")
    world = World(dpusets=[dpuset()], dpus=[one, dpu("b")], pods=[pod(one, "a-dms")])
    assert drawn(world) == [
        "DPF",
        "└─DPUSets",
        "  └─DPUSet/set",
        "    ├─DPU/a-0000-04-00",
        "    │ └─Pod/a-dms",
        "    └─DPU/b-0000-04-00",
    ]


def test_dpus_that_no_set_made_have_a_place_of_their_own() -> None:
    assert drawn(World(dpus=[dpu("a", owner="")])) == ["DPF", "└─DPUs of no DPUSet", "  └─DPU/a-0000-04-00"]


def test_an_object_says_what_it_waits_for_and_for_how_long() -> None:
    item = tree.build(World(dpus=[dpu("a", owner="", status=BROKEN)])).children[0].children[0]
    assert (item.ready, item.phase, item.reason, item.message) == (
        "False",
        "Error",
        "InstallationFailed",
        "write error",
    )
    assert item.since is not None
    assert item.plain()["since"] == "2026-01-01T00:00:00Z"


def test_a_ready_object_waits_for_nothing() -> None:
    item = tree.build(World(dpus=[dpu("a", owner="")])).children[0].children[0]
    assert (item.ready, item.reason, item.message) == ("True", "", "")


def test_a_pod_names_its_container_in_trouble() -> None:
    status = {"name": "dms", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    item = tree.pod_item(pod(dpu("a"), "a-dms", containerStatuses=[status], phase="Pending"))
    assert (item.ready, item.reason, item.message) == ("False", "ImagePullBackOff", "container dms: no such image")


def test_conditions_are_shown_as_asked_for() -> None:
    world = World(dpus=[dpu("a", owner="", status=BROKEN)], bfbs=[BFB.model_validate({"metadata": {"name": "x"}})])
    plain = drawn(world)
    assert set(drawn(world, "failed")) - set(plain) == {"    └─OSInstalled"}
    assert set(drawn(world, "all")) - set(plain) == {"    ├─Initialized", "    └─OSInstalled"}
    assert drawn(world, "DPU/a-0000-04-00") == drawn(world, "DPU") == drawn(world, "all")
    assert drawn(world, "BFB") == plain


def test_dpus_in_the_same_state_are_one_line() -> None:
    many = [dpu(f"h{number}") for number in range(1000)]
    world = World(dpusets=[dpuset()], dpus=[*many, dpu("z", status=BROKEN)])
    assert drawn(world, together=True)[3:] == ["    ├─1000 DPUs", "    └─DPU/z-0000-04-00"]


def test_dpus_whose_conditions_are_shown_have_a_line_each() -> None:
    many = [dpu(host) for host in "abc"]
    amiss = {"phase": "Ready", "conditions": [condition("Ready", True), condition("DPUNodeHealthy", False)]}
    failing = {"conditions": [condition("ContainersReady", False)]}
    world = World(dpusets=[dpuset()], dpus=[*many, dpu("d", status=amiss)], pods=[pod(many[1], "b-dms", **failing)])
    assert drawn(world, together=True)[3:] == ["    └─4 DPUs"]
    assert drawn(world, "all", together=True) == drawn(world, "all")
    assert drawn(world, "DPU", together=True) == drawn(world, "DPU")
    assert drawn(world, "DPU/b-0000-04-00", together=True)[3:] == [
        "    ├─3 DPUs",
        "    └─DPU/b-0000-04-00",
        "      ├─Ready",
        "      └─Pod/b-dms",
    ]
    assert drawn(world, "Pod/b-dms", together=True)[3:] == [
        "    ├─3 DPUs",
        "    └─DPU/b-0000-04-00",
        "      └─Pod/b-dms",
        "        └─ContainersReady",
    ]
    assert drawn(world, "failed", together=True)[3:] == [
        "    ├─2 DPUs",
        "    ├─DPU/b-0000-04-00",
        "    │ └─Pod/b-dms",
        "    │   └─ContainersReady",
        "    └─DPU/d-0000-04-00",
        "      └─DPUNodeHealthy",
    ]
    assert drawn(world, "BFB", together=True)[3:] == ["    └─4 DPUs"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *((each, each) for each in ("none", "failed", "all", "DPU", "DPU/a", "Pod")),
        *(("dpus", "DPU"), ("dpus.provisioning.dpu.nvidia.com/a", "DPU/a"), ("dpuset/s", "DPUSet/s")),
    ],
)
def test_conditions_are_asked_for_as_kinds_are_written(text: str, meant: str) -> None:
    assert whose(text) == meant


@pytest.mark.parametrize("text", ["bogus", "", "DPU/", "bogus/a", "/a", "dpuflavor", "al"])
def test_conditions_of_what_has_none_are_refused_with_what_is_possible(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        whose(text)
    assert str(raised.value) == (
        f"--show-conditions={text} means nothing: write none, failed, all, KIND or KIND/NAME, "
        "where KIND is one of dpuset, dpu, bfb, dpucluster, pod"
    )


def test_one_object_is_shown_with_what_leads_to_it_and_hangs_below_it() -> None:
    one = dpu("a")
    item = tree.build(World(dpusets=[dpuset()], dpus=[one, dpu("b")], pods=[pod(one, "a-dms")]))
    names = [row["name"].lstrip("└─ ") for row in tree.lines(tree.only(item, "DPU", one.name))]
    assert names == ["DPF", "DPUSets", "DPUSet/set", "DPU/a-0000-04-00", "Pod/a-dms"]
    assert not tree.only(item, "DPU", "nobody").children

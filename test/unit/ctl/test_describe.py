"""What ``dpfctl describe`` shows of what it is asked for, and what it says if there is no such object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from dpf.ctl import describe
from dpf.ctl.connect import Session
from dpf.ctl.tree import World
from dpf.runtime.client import Client
from dpf.runtime.errors import ConfigError
from dpf.runtime.kubeconfig import Kubeconfig
from dpf_api.operatorconfig import DPFOperatorConfig
from dpf_cmd.dpfctl import build_parser
from test.unit.ctl.objects import dpu

Shown = Callable[..., Awaitable[list[str]]]


def config(name: str) -> DPFOperatorConfig:
    return DPFOperatorConfig.model_validate({"metadata": {"name": name, "namespace": "ns"}})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """Runs the command in a world; gives the names of its lines."""

    async def run(world: World, *words: str) -> list[str]:
        async def read(_: Session) -> World:
            return world

        monkeypatch.setattr(describe, "read", read)
        arguments = build_parser("describe").parse_args(["describe", *words])
        nowhere = Kubeconfig("https://nowhere")
        async with Client(nowhere, field_owner="test") as client:
            assert await describe.describe(Session(client, nowhere, "ns"), arguments) == 0
        return [line.split("   ")[0].rstrip() for line in capsys.readouterr().out.splitlines()[1:]]

    return run


async def test_a_dpfoperatorconfig_is_found_by_its_name_also_where_there_is_nothing_else(shown: Shown) -> None:
    assert await shown(World(configs=[config("a")]), "dpfoperatorconfig", "a") == ["DPFOperatorConfig/a"]
    assert await shown(World(configs=[config("a")]), "dpfoperatorconfig") == ["DPFOperatorConfig/a"]
    both = World(configs=[config("a"), config("b")])
    assert await shown(both, "dpfoperatorconfig/b") == ["DPFOperatorConfig/b"]


@pytest.mark.parametrize("world", [World(configs=[config("a")], dpus=[dpu("h")]), World(dpus=[dpu("h")]), World()])
@pytest.mark.parametrize("kind", ["dpfoperatorconfig", "dpu", "bfb"])
async def test_an_object_that_is_not_there_is_an_error(shown: Shown, world: World, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no .* 'nosuch'; `dpfctl get {kind}s` lists those there are"):
        await shown(world, kind, "nosuch")


async def test_a_name_without_a_kind_is_refused(shown: Shown) -> None:
    with pytest.raises(ConfigError, match="all is no kind: say of which one 'nosuch' is, or leave it out"):
        await shown(World(configs=[config("a")]), "all", "nosuch")


async def test_one_dpu_is_shown_with_what_leads_to_it(shown: Shown) -> None:
    world = World(configs=[config("a")], dpus=[dpu("h", owner=""), dpu("i", owner="")])
    assert await shown(world, "dpu", "h-0000-04-00") == [
        "DPFOperatorConfig/a",
        "└─DPUs of no DPUSet",
        "  └─DPU/h-0000-04-00",
    ]

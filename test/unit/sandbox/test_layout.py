"""Names and addresses of a sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpf.sandbox.layout import SOCKET_PATH_LIMIT, Inventory, Layout, claim_block


def test_cards_are_named_as_a_dpuset_names_their_dpus() -> None:
    assert [card.dpu for card in Inventory(3, 2, "127.16.0.0").cards()] == [
        "worker1-0000-04-00",
        "worker1-0000-05-00",
        "worker2-0000-04-00",
    ]


def test_every_host_has_an_address_of_its_own() -> None:
    inventory = Inventory(1000, 1, "127.16.0.0")
    addresses = {inventory.address(host) for host in inventory.hosts}
    assert len(addresses) == 1000
    assert inventory.address("worker1") == "127.16.0.1"


@pytest.mark.parametrize(("dpus", "per_host"), [(-1, 1), (1, 0), (1, 17), (5000, 1)])
def test_impossible_fleet_is_refused(dpus: int, per_host: int) -> None:
    with pytest.raises(ValueError, match=r"fleet|addresses"):
        Inventory(dpus, per_host, "127.16.0.0")


def test_two_sandboxes_get_different_addresses() -> None:
    first, one = claim_block()
    second, two = claim_block()
    with one, two:
        assert first != second


def test_sockets_of_a_deep_folder_lie_elsewhere() -> None:
    deep = Layout(Path("/" + "x" * 120))
    assert len(str(deep.control_socket)) < SOCKET_PATH_LIMIT
    assert deep.run_dir != Layout(Path("/" + "y" * 120)).run_dir
    assert Layout(Path("/short")).control_socket == Path("/short/run/supervisor.sock")

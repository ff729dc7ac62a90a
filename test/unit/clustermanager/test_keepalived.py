"""keepalived's configuration and pods. The shell script is run, by the shell."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from dpf.clustermanager.kamaji.keepalived import (
    DIGEST,
    SCRIPT,
    configuration,
    require_endpoint,
    wanted_config_map,
    wanted_daemon_set,
)
from dpf.clustermanager.kamaji.settings import Settings
from dpf.clustermanager.kamaji.waits import Kept
from dpf_api.dpucluster import Keepalived
from test.unit.clustermanager.clusters import VIP, with_vip


def complete(folder: Path, node_ip: str) -> str:
    """What the init container makes of the template on a node."""
    template, made = folder / "template", folder / "made"
    template.write_text(configuration(VIP, 31000))
    env = {"NODE_IP": node_ip, "TEMPLATE": str(template), "CONFIGURATION": str(made), "PATH": "/usr/bin:/bin"}
    subprocess.run(["/bin/sh", "-c", SCRIPT], env=env, check=True)
    return made.read_text()


def priority(folder: Path, node_ip: str) -> int:
    (line,) = [line for line in complete(folder, node_ip).splitlines() if "priority" in line]
    return int(line.split()[1])


def test_a_node_completes_the_configuration_with_its_address(tmp_path: Path) -> None:
    made = complete(tmp_path, "10.1.2.3")
    assert "https://10.1.2.3:31000" in made
    assert "interface br-ex" in made
    assert "virtual_router_id 7" in made
    assert "192.0.2.10" in made
    assert "@" not in made


def test_an_address_of_version_6_stands_in_brackets(tmp_path: Path) -> None:
    assert "https://[2001:db8::1]:31000" in complete(tmp_path, "2001:db8::1")
    assert 1 <= priority(tmp_path, "2001:db8::1") <= 254


def test_priorities_are_in_range_and_near_addresses_never_tie(tmp_path: Path) -> None:
    # The last octet alone would give 0, 255, and the same for one host of each subnet.
    near = ["10.0.0.0", "10.0.0.1", "10.0.0.100", "10.0.0.253"]
    found = [priority(tmp_path, address) for address in near]
    assert len(set(found)) == len(found)
    across = [priority(tmp_path, address) for address in ("10.0.0.11", "10.0.1.11", "10.0.2.11")]
    assert len(set(across)) == len(across)
    extreme = [priority(tmp_path, address) for address in ("0.0.0.0", "255.255.255.255", "10.0.0.255")]
    assert all(1 <= each <= 254 for each in (*found, *across, *extreme))


def test_the_pods_are_those_of_v24_10() -> None:
    wanted = wanted_daemon_set(with_vip(), VIP, 31000, Settings(image_pull_secrets=("pull",)))
    assert wanted.name == "c-keepalived"
    assert wanted.spec["selector"] == {"matchLabels": {"app.kubernetes.io/name": "c-keepalived"}}
    pod: dict[str, Any] = wanted.spec["template"]["spec"]
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert pod["nodeSelector"] == {"zone": "a"}
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    (configure,), (run,) = pod["initContainers"], pod["containers"]
    assert (configure["name"], configure["image"]) == ("create-conf", "alpine:3.20.3")
    assert (run["name"], run["image"]) == ("keepalived", "osixia/keepalived:2.0.20")
    assert run["securityContext"] == {"privileged": True}
    assert run["volumeMounts"] == [{"name": "conf", "mountPath": "/usr/local/etc/keepalived"}]
    assert pod["automountServiceAccountToken"] is False
    template = wanted_config_map(with_vip(), VIP, 31000)
    assert (template.name, list(template.data)) == ("c-keepalived", ["keepalived.conf.tmpl"])


def test_another_configuration_makes_other_pods() -> None:
    def digest(keepalived: Keepalived, port: int) -> str:
        found: str = wanted_daemon_set(with_vip(), keepalived, port, Settings()).spec["template"]["metadata"][
            "annotations"
        ][DIGEST]
        return found

    assert digest(VIP, 31000) == digest(VIP, 31000)
    assert digest(VIP, 31001) != digest(VIP, 31000)
    assert digest(VIP.model_copy(update={"vip": "192.0.2.11"}), 31000) != digest(VIP, 31000)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"vip": "host.example"}, "vip"),
        ({"vip": "10.0.0.1/24"}, "vip"),
        ({"interface": "two words"}, "interface"),
        ({"interface": "x" * 16}, "interface"),
        ({"interface": 'a"}'}, "interface"),
    ],
)
def test_what_keepalived_could_not_use_is_named(changes: dict[str, str], part: str) -> None:
    obj = with_vip(**changes)
    with pytest.raises(Kept, match=part):
        require_endpoint(obj, VIP.model_copy(update=changes))


def test_the_name_of_the_pods_fits_a_label() -> None:
    require_endpoint(with_vip("c" * 52), VIP)
    with pytest.raises(Kept, match="52 characters"):
        require_endpoint(with_vip("c" * 53), VIP)

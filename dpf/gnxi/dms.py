"""What a DMS server and its clients agree on: paths, names, sizes. Facts of the DOCA Management Service's wire protocol."""

from __future__ import annotations

MODE_PATH = ("nvidia", "mode", "config", "mode")
"""gNMI path of the card's mode of operation."""

BOOT_TIME_PATH = ("system", "state", "boot-time")
"""gNMI path of the host's boot time, nanoseconds since 1970 (openconfig-system)."""

FIRMWARE_PATH = ("components", "component", "state", "firmware-version")
"""gNMI path of the version of a part's firmware (openconfig-platform); key ``name`` of ``component`` names the part."""
ANY = "*"
"""The name that stands for all parts."""
PARTS = BMC, NIC, UEFI = "bmc", "nic", "uefi"
"""Parts of a card that have firmware."""

CPU = "CPU"
"""gNOI subcomponent whose reboot status tells of an activation: the card's Arm side."""
CHASSIS = "chassis"
"""gNOI subcomponent that a host reboot names; its key ``power`` is ``cycle`` or ``reset``."""
POWER = "power"

CONFIG_SUFFIX = ".cfg"
"""How a server tells a bf.cfg from an image."""
CONFIG_LIMIT = 131_072
"""Bytes that a bf.cfg may have."""
SEPARATOR = ";"
"""Between image and bf.cfg in the version of an Activate."""

CHUNK = 64 * 1024
"""Bytes of content in one message of an Install."""

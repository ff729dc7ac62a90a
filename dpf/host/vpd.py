"""Vital product data of a PCI device: what its maker wrote into it (PCI Local Bus Specification 3.0, appendix I).

A sequence of resources. A large one is a tag byte with its high bit set, two bytes of length (low one first) and the data: 0x82
is the product's name, 0x90 holds read-only and 0x91 writable fields. A small one has its length in the low three bits of the tag;
0x78 is the end. A field is two letters, a byte of length and its value. RV, the last of the read-only ones, begins with a byte
that makes the sum of everything up to it zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LARGEST = 32768
"""Bytes that the address of vital product data can reach."""
NAME, READ_ONLY, WRITABLE, END = 0x82, 0x90, 0x91, 0x78


@dataclass(frozen=True)
class Vpd:
    """What could be read.

    :param problem: why the rest could not, or why none of it is to be trusted; empty if all is well.
    """

    product: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def part_number(self) -> str:
        return self.fields.get("PN", "")

    @property
    def serial_number(self) -> str:
        return self.fields.get("SN", "")


def parse(data: bytes) -> Vpd:
    """Reads vital product data. Never raises: what is wrong stands in :attr:`Vpd.problem`."""
    fields: dict[str, str] = {}
    product, at = "", 0
    while True:
        if at >= len(data):
            return Vpd(product, fields, "it has no end" if data else "it is empty")
        tag = data[at]
        if tag & 0x80:
            start, length = at + 3, int.from_bytes(data[at + 1 : at + 3], "little")
        else:
            tag, start, length = tag & 0x78, at + 1, tag & 0x07
        if tag == END:
            return Vpd(product, fields)
        if tag not in {NAME, READ_ONLY, WRITABLE}:
            return Vpd(product, fields, f"byte {at} is no resource that is known: {data[at]:#04x}")
        if start + length > len(data):
            return Vpd(product, fields, f"the resource at byte {at} is longer than the data")
        if tag == NAME:
            product = _text(data[start : start + length])
        elif problem := _read_fields(data, start, start + length, fields):
            return Vpd(product, fields, problem)
        at = start + length


def _read_fields(data: bytes, at: int, end: int, into: dict[str, str]) -> str:
    """Reads the fields of one resource; what is wrong with them, or empty."""
    while at + 3 <= end:
        keyword, length = data[at : at + 2], data[at + 2]
        if at + 3 + length > end:
            return f"the field at byte {at} is longer than its resource"
        if keyword == b"RV":
            # The rest of it is room that is kept free.
            return "the checksum is wrong" if length and sum(data[: at + 4]) % 256 else ""
        if keyword != b"RW":
            into[_text(keyword)] = _text(data[at + 3 : at + 3 + length])
        at += 3 + length
    return ""


def _text(data: bytes) -> str:
    return data.decode("ascii", errors="replace").strip(" \t\r\n\0")

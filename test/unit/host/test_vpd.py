"""Vital product data as devices have it, and as they should not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpf.host.vpd import parse
from dpf.sandbox.fleet.machine import vital_product_data

FIELDS = {"PN": "900-9D3B6-00CV-AA0", "EC": "A6", "SN": "MT2430XZ0ABC", "V0": "PCIeGen5 x16"}
GOOD = vital_product_data("BlueField-3 P-Series DPU", FIELDS)

KEYWORDS = st.from_regex(r"[A-Z][A-Z0-9]", fullmatch=True).filter(lambda word: word not in {"RV", "RW"})
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=255)


def test_a_card_tells_its_name_part_and_serial_number() -> None:
    found = parse(GOOD)
    assert (found.product, found.part_number, found.serial_number) == (
        "BlueField-3 P-Series DPU",
        "900-9D3B6-00CV-AA0",
        "MT2430XZ0ABC",
    )
    assert found.fields == FIELDS
    assert found.problem == ""


def test_writable_fields_and_padding_are_read_too() -> None:
    writable = b"\x91\x0d\x00" + b"YA\x04tag " + b"RW\x03\x00\x00\x00"
    found = parse(GOOD[:-1] + writable + b"\x78" + b"\xff" * 100)
    assert (found.fields["YA"], found.problem) == ("tag", "")
    padded = parse(vital_product_data("x", {"PN": "900-1   "}))
    assert padded.part_number == "900-1"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it is empty"),
        (GOOD[:-1], "it has no end"),
        (GOOD[:10], "the resource at byte 0 is longer than the data"),
        (b"\xff" * 64, "byte 0 is no resource that is known: 0xff"),
        (b"\x00" * 64, "byte 0 is no resource that is known: 0x00"),
        (GOOD.replace(b"MT2430XZ0ABC", b"MT2430XZ0ABD"), "the checksum is wrong"),
        (b"\x90\x05\x00PN\x09ab\x78", "the field at byte 3 is longer than its resource"),
    ],
)
def test_what_is_wrong_with_it_is_said(data: bytes, problem: str) -> None:
    assert parse(data).problem == problem


@given(st.binary(max_size=600))
def test_garbage_never_raises(data: bytes) -> None:
    parse(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_byte_that_was_changed_never_raises(at: int, value: int) -> None:
    parse(GOOD[:at] + bytes([value]) + GOOD[at + 1 :])


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=300), st.dictionaries(KEYWORDS, VALUES))
def test_what_a_maker_wrote_is_what_is_read(product: str, fields: dict[str, str]) -> None:
    found = parse(vital_product_data(product, fields))
    assert (found.product, dict(found.fields), found.problem) == (product, fields, "")

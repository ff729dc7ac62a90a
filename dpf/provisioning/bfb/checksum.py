"""The checksum that a BFB names, in its spec or by annotation."""

from __future__ import annotations

import re

from dpf_api import names
from dpf_api.bfb import BFB, CHECKSUM_PATTERN

_CHECKSUM = re.compile(CHECKSUM_PATTERN)


def named(bfb: BFB) -> str:
    """As ``sha256:<hex>``; empty if it names none.

    :raises ValueError: if the annotation is none, or another one than the spec's.
    """
    annotated, spec = bfb.annotations.get(names.ANNOTATION_CHECKSUM), bfb.spec.checksum
    if annotated is None:
        return spec
    if not _CHECKSUM.fullmatch(annotated):
        raise ValueError("must be sha256: and 64 hexadecimal digits in lower case")
    if spec and annotated != spec:
        raise ValueError(f"is another checksum than spec.checksum, {spec}; remove the annotation, or make a new BFB")
    return annotated

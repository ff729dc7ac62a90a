"""Which file on the shared volume is a BFB's."""

from __future__ import annotations

from dpf.runtime.informer import Index
from dpf_api.bfb import BFB
from dpf_api.names import bfb_file


def file_of(bfb: BFB) -> str:
    """The name of its file, whether the BFB says it or not."""
    return bfb.spec.file_name or bfb_file(bfb.namespace, bfb.name)


BY_FILE: Index[BFB] = Index("file", lambda bfb: (file_of(bfb),))
"""By that name, across namespaces: there is one volume."""

"""Which file on the shared volume is a BFB's."""

from __future__ import annotations

from dpf.runtime.informer import Index
from dpf_api.bfb import BFB, file_of

BY_FILE: Index[BFB] = Index("file", lambda bfb: (file_of(bfb),))
"""By that name, across namespaces: there is one volume."""

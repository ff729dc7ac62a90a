"""Why a cluster is left as it is."""

from __future__ import annotations

from dpf.runtime.errors import Waiting


class Kept(Waiting):
    """Somebody must act first; the control plane, if there is one, runs on as it was."""

"""Admission of DPUFlavors: none goes while it is used."""

from __future__ import annotations

from dpf.provisioning.admission.users import Users
from dpf_api.dpuflavor import DPUFlavor


class DPUFlavorAdmission:
    """Rules of DPUFlavors beyond their schema."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def validate(self, old: DPUFlavor | None, new: DPUFlavor | None) -> None:
        """Refuses the deletion of a flavor that is used."""
        if old is not None and new is None:
            self._users.refuse_deletion(old)

"""Admission of DPUFlavors: a bf.cfg can be made from each, and none goes while it is used."""

from __future__ import annotations

from dpf.provisioning.admission.users import Users
from dpf.provisioning.bfcfg.check import judge
from dpf.runtime.webhook import Cause, Denied, invalid
from dpf_api.dpuflavor import DPUFlavor


class DPUFlavorAdmission:
    """Rules of DPUFlavors beyond their schema."""

    def __init__(self, users: Users) -> None:
        self._users = users

    async def validate(self, old: DPUFlavor | None, new: DPUFlavor | None) -> None:
        """Refuses a flavor that no card could be given, and the deletion of one that is used.

        What was stored before somebody checked it is let pass, so that its labels can still be changed.

        :raises Denied: with 503 if it could not be looked at: the request may be made again.
        """
        if new is None:
            if old is not None:
                self._users.refuse_deletion(old)
        elif old is None or old.spec != new.spec:
            try:
                found = (await judge(new.spec, anew=True)).unfit
            except OSError as error:
                raise Denied(f"the flavor could not be looked at: {error}; try again", code=503) from error
            if found is not None:
                raise invalid(new, [Cause(found.field, found.rule)])

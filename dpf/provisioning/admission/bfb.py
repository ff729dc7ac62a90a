"""Admission of BFBs: each has a file of its own, and none goes while it is used."""

from __future__ import annotations

from dpf.provisioning.admission.users import Users, settled
from dpf.provisioning.bfb.file import BY_FILE, file_of
from dpf.runtime.informer import Informer
from dpf.runtime.webhook import Cause, invalid
from dpf_api.bfb import BFB


class BFBAdmission:
    """Defaults and rules of BFBs."""

    def __init__(self, bfbs: Informer[BFB], users: Users) -> None:
        self._bfbs = bfbs
        self._users = users
        bfbs.add_index(BY_FILE)

    def default(self, bfb: BFB) -> BFB:
        """Says the file name that the BFB has anyway.

        One that was stored without is left so: its spec can't be changed any more, and an update must not fail for that.
        """
        stored = self._bfbs.get(bfb.name, bfb.namespace)
        if bfb.spec.file_name or not bfb.name or (stored is not None and not stored.spec.file_name):
            return bfb
        named = bfb.spec.model_copy(update={"file_name": file_of(bfb)})
        return bfb.model_copy(update={"spec": named})

    def validate(self, old: BFB | None, new: BFB | None) -> None:
        """Refuses a second BFB with the same file, and the deletion of one that is used."""
        if new is None:
            if old is not None:
                self._users.refuse_deletion(old)
        elif old is None:
            self._own_file(new)

    def _own_file(self, bfb: BFB) -> None:
        settled(self._bfbs)
        if others := [key for key in self._bfbs.keys_by(BY_FILE, file_of(bfb)) if key != bfb.key]:
            message = f"{file_of(bfb)} is the file of BFB {others[0]} already; two images can't share one"
            raise invalid(bfb, [Cause("spec.fileName", message, "FieldValueDuplicate")])

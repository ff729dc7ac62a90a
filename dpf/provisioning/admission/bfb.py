"""Admission of BFBs: each has a file of its own, its annotated checksum can be met, and none goes while it is used."""

from __future__ import annotations

from dpf.provisioning.admission.users import Users, settled
from dpf.provisioning.bfb.checksum import named
from dpf.provisioning.bfb.file import BY_FILE
from dpf.runtime.informer import Informer
from dpf.runtime.webhook import Cause, Denied, invalid
from dpf_api.bfb import BFB, LONGEST_FILE_NAME, Phase, file_of
from dpf_api.names import ANNOTATION_CHECKSUM


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
        """Refuses a file that can't be there or is another's, a checksum that can't be met, and the deletion of what is used."""
        if new is None:
            if old is not None:
                self._users.refuse_deletion(old)
            return
        if old is None:
            _possible_file(new)
            self._own_file(new)
        _checksum(old, new)

    def _own_file(self, bfb: BFB) -> None:
        settled(self._bfbs)
        if others := [key for key in self._bfbs.keys_by(BY_FILE, file_of(bfb)) if key != bfb.key]:
            message = f"{file_of(bfb)} is the file of BFB {others[0]} already; two images can't share one"
            raise invalid(bfb, [Cause("spec.fileName", message, "FieldValueDuplicate")])


def _possible_file(bfb: BFB) -> None:
    """The CRD says so of a name that is there; this is for one that nobody has filled in."""
    if (length := len(file_of(bfb))) > LONGEST_FILE_NAME:
        message = f"a file's name may have {LONGEST_FILE_NAME} characters, and <namespace>-<name>.bfb has {length}; name a file"
        raise invalid(bfb, [Cause("spec.fileName", message)])


def _checksum(old: BFB | None, new: BFB) -> None:
    """Of one that was stored before somebody checked it nothing is said, so that the BFB can still be changed and deleted."""
    annotated = new.annotations.get(ANNOTATION_CHECKSUM)
    if annotated is None or (old is not None and annotated == old.annotations.get(ANNOTATION_CHECKSUM)):
        return
    try:
        checksum = named(new)
    except ValueError as error:
        raise _wrong(new, str(error)) from error
    ready = new.status.checksum if new.status.phase is Phase.READY else ""
    if ready and checksum != ready:
        raise _wrong(new, f"the image is Ready and has {ready}; another image is another BFB")


def _wrong(bfb: BFB, message: str) -> Denied:
    return invalid(bfb, [Cause(f"metadata.annotations[{ANNOTATION_CHECKSUM}]", message)])

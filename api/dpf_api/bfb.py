"""BFB: an image for BlueField cards, and how far it is on the shared volume.

The spec is frozen: a new image is a new BFB, so that a name always means the same bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from dpf.runtime.meta import Condition, Model, Object, Resource
from dpf_api.names import GROUP, VERSION, bfb_file
from dpf_api.schema import AGE, CONDITIONS, IMMUTABLE, PHASE, REASON, Column, Rule, Schema

URL_PATTERN = r"^(http|https)://.+\.bfb$"
FILE_NAME_PATTERN = r"^[A-Za-z0-9\_\-\.]+\.bfb$"
CHECKSUM_PATTERN = "^sha256:[0-9a-f]{64}$"
LONGEST_FILE_NAME = 255
"""Bytes of a file's name that file systems take."""

FILE_NAME_FITS = Rule(
    f"oldSelf.hasValue() || self.size() <= {LONGEST_FILE_NAME}",
    f"may have {LONGEST_FILE_NAME} characters, as a file's name may; a BFB that names no file gets <namespace>-<name>.bfb",
    optional_old_self=True,
)
"""Asked of new BFBs only: the spec of one stored before can't be changed, and it must be possible to let it go."""


class Phase(StrEnum):
    """Where a BFB is between created and usable."""

    INITIALIZING = "Initializing"
    DOWNLOADING = "Downloading"
    READY = "Ready"
    DELETING = "Deleting"
    ERROR = "Error"


class ConditionType(StrEnum):
    """Types of a BFB's conditions."""

    DOWNLOADED = "Downloaded"
    READY = "Ready"


class BFBSpec(Model):
    """Which image, and under which name it is kept."""

    url: Annotated[str, Schema(required=True, pattern=URL_PATTERN)] = ""
    """Where to download the image from: an http or https URL that ends in .bfb."""

    file_name: Annotated[str, Schema(pattern=FILE_NAME_PATTERN, rules=(FILE_NAME_FITS,))] = ""
    """Name of the file on the shared volume; <namespace>-<name>.bfb if not given. DMS calls the image by this name."""

    checksum: Annotated[str, Schema(pattern=CHECKSUM_PATTERN)] = ""
    """SHA-256 that the image must have, as sha256:<64 hexadecimal digits>. A download that differs is thrown away. Annotation
    provisioning.dpu.nvidia.com/checksum says the same of a BFB that is there already, file <url>.sha256 on the server of all."""


class BFBStatus(Model):
    """How far the download is."""

    phase: Annotated[Phase, Schema(required=True, default=Phase.INITIALIZING)] = Phase.INITIALIZING
    """Where the image is between created and usable."""

    reason: str = ""
    """One word on why the image is not usable yet; empty when it is."""

    message: str = ""
    """What is happening or what is wrong, for people."""

    file_size: Annotated[int, Schema(minimum=0, extra={"format": "int64"})] = 0
    """Size of the image in bytes, as the server announced it or as it was downloaded."""

    downloaded_bytes: Annotated[int, Schema(minimum=0, extra={"format": "int64"})] = 0
    """How much of the image is on the volume. A download that was broken off goes on from there."""

    bytes_per_second: Annotated[int, Schema(minimum=0, extra={"format": "int64"})] = 0
    """How fast a running download was over the last minute."""

    seconds_left: Annotated[int | None, Schema(minimum=0, extra={"format": "int64"})] = None
    """How long a running download will take at that rate; not there if that can't be told."""

    checksum: str = ""
    """SHA-256 of the downloaded image, as sha256:<64 hexadecimal digits>."""

    file_stamp: str = ""
    """Size of the image's file, and when it was last written to in nanoseconds, as they were when the file was found to have that
    checksum. A file that has others is read again before it is used."""

    observed_generation: Annotated[int, Schema(minimum=0, extra={"format": "int64"})] = 0
    """The generation of the spec that this status speaks of."""

    conditions: Annotated[list[Condition], CONDITIONS] = Field(default_factory=list)
    """What is true of the image: Downloaded, Ready."""


class BFB(Object):
    """An image for BlueField cards: downloaded once onto the shared volume, then installed on any number of DPUs."""

    RESOURCE: ClassVar[Resource] = Resource(GROUP, VERSION, "bfbs", "BFB")
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.spec)", "spec is required: a BFB needs spec.url", ".spec", "FieldValueRequired"),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        PHASE,
        Column("File", ".spec.fileName"),
        Column("Size", ".status.fileSize", "integer", wide=True),
        Column(
            "Rate",
            ".status.bytesPerSecond",
            "integer",
            wide=True,
            description="of a running download, in bytes per second",
        ),
        Column("Left", ".status.secondsLeft", "integer", wide=True, description="of a running download, in seconds"),
        REASON,
        Column("URL", ".spec.url", wide=True),
        Column("Message", ".status.message", wide=True),
        AGE,
    )

    spec: Annotated[BFBSpec, Schema(rules=(IMMUTABLE,))] = Field(default_factory=BFBSpec)
    """Which image, and under which name it is kept. Can't be changed."""

    status: Annotated[BFBStatus, Schema(default={"phase": "Initializing"})] = Field(default_factory=BFBStatus)
    """How far the download is."""


def file_of(bfb: BFB) -> str:
    """The name of its file on the shared volume, whether the BFB says it or not."""
    return bfb.spec.file_name or bfb_file(bfb.namespace, bfb.name)

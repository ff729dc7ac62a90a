"""The Kamaji that tests run, and its manifests: pinned in ``hack/controlplane/kamaji``, built once and kept in the cache.

Nothing but tests needs it: sandboxes have a stand-in. ``python -m test.kamaji`` finds or builds it and prints its folder.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from dpf.runtime.errors import ConfigError
from dpf.sandbox import manifests
from dpf.sandbox.api import Json
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.binaries import Program, Programs

CRDS = "config/crd/bases"
WEBHOOKS = "config/webhook"
PROGRAM = Program(
    "kamaji",
    "kamaji",
    "github.com/clastix/kamaji",
    4,
    files=(
        f"{CRDS}/kamaji.clastix.io_datastores.yaml",
        f"{CRDS}/kamaji.clastix.io_tenantcontrolplanes.yaml",
        f"{WEBHOOKS}/manifests.yaml",
    ),
)
KAMAJI = Programs("kamaji", (PROGRAM,))


def program() -> Path:
    """Kamaji's program.

    :raises ConfigError: if it has to be built and cannot be.
    """
    return binaries.ensure(KAMAJI) / PROGRAM.name


@cache
def crds() -> list[Json]:
    """Its CRDs.

    :raises ConfigError: if it has to be built and cannot be.
    """
    return list(manifests.documents(_files() / CRDS))


def webhooks() -> list[Json]:
    """The configurations of its webhooks, by which an API server in a cluster finds them.

    :raises ConfigError: if it has to be built and cannot be.
    """
    return list(manifests.documents(_files() / WEBHOOKS))


def _files() -> Path:
    return binaries.files_of(PROGRAM, binaries.ensure(KAMAJI))


def main() -> int:
    """Entry point."""
    try:
        sys.stdout.write(f"{program().parent}\n")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes the gNOI stubs under ``dpf/gnxi/gen`` from the protos under ``dpf/gnxi/proto``; part of ``make generate``."""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTOS = ROOT / "dpf" / "gnxi" / "proto"


def main() -> int:
    """Runs the compiler. The protos lie at the path that their modules are imported by, so imports come out right."""
    files = sorted(str(path) for path in PROTOS.rglob("*.proto"))
    outputs = [f"--{kind}_out={ROOT}" for kind in ("python", "pyi", "grpc_python")]
    status: int = protoc.main(["protoc", f"-I{PROTOS}", *outputs, *files])
    return status


if __name__ == "__main__":
    sys.exit(main())

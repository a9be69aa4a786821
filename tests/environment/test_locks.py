"""The lock files: up to date, every package pinned and hashed, usable with any mirror and on both processors."""

import re
import shutil
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from environment import locks
from shared import paths

ROOMS = ("environment", "tests/bench")
OUTPUTS = [lock.output for lock in locks.LOCKS]

# Compiled packages: they have one wheel for each processor, Python and C library, so many hashes.
COMPILED = {
    "environment/requirements.lock": ("httptools", "numpy", "tokenizers", "uvloop"),
    "environment/torch.lock": ("torch",),
    "environment/uv.txt": ("uv",),
    "environment/build-tools.lock": ("cmake", "ninja"),
    "environment/engines/vllm/requirements.lock": ("httptools", "numpy", "uvloop"),
}


def stale(root: Path) -> list[str]:
    """The locks under `root` whose first line doesn't match their inputs."""
    return [lock.output for lock in locks.LOCKS if not (root / lock.output).read_text().startswith(lock.stamp())]


def packages(output: str) -> dict[str, list[str]]:
    """Each requirement of a lock (name, version, markers) with its hashes."""
    found: dict[str, list[str]] = {}
    text = re.sub(r"(?m)^\s*#.*\n", "", (paths.REPO / output).read_text())
    for entry in text.replace("\\\n", " ").splitlines():
        requirement, *options = re.split(r"\s+--", entry)
        found[requirement.strip()] = options
    return found


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The locks and their inputs in a folder where they may be changed."""
    for lock in locks.LOCKS:
        for name in (lock.output, *lock.inputs):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(paths.REPO / name, tmp_path / name)
    monkeypatch.setattr(locks, "ROOT", tmp_path)
    return tmp_path


def test_no_lock_is_stale() -> None:
    assert stale(paths.REPO) == [], "run `make lock`"


@pytest.mark.parametrize("name", sorted({name for lock in locks.LOCKS for name in lock.inputs}))
def test_changed_input_makes_its_locks_stale(copy: Path, name: str) -> None:
    assert stale(copy) == []
    file = copy / name
    if name == "pyproject.toml":
        file.write_text(file.read_text().replace('"numpy",', '"numpy<2",'))
    else:
        file.write_text(file.read_text() + "idna\n")
    assert stale(copy) == [lock.output for lock in locks.LOCKS if name in lock.inputs] != []


def test_a_tools_setting_makes_no_lock_stale(copy: Path) -> None:
    file = copy / "pyproject.toml"
    file.write_text(file.read_text().replace("line-length = 120", "line-length = 100"))
    assert stale(copy) == []


def test_every_lock_file_is_made_by_make_lock() -> None:
    found = {str(f.relative_to(paths.REPO)) for room in ROOMS for f in (paths.REPO / room).rglob("*.lock")}
    assert found <= set(OUTPUTS)
    assert not list(paths.REPO.glob("uv.lock")), "uv.lock pins addresses"


EXCLUDED = "sys_platform == 'never'"


@pytest.mark.parametrize(
    ("marker", "stays"),
    [
        (EXCLUDED, False),
        (f"python_full_version < '3.13' and {EXCLUDED}", False),
        (f"(python_full_version < '3.13' and {EXCLUDED}) or (os_name == 'nt' and {EXCLUDED})", False),
        (f"platform_machine == 'x86_64' or {EXCLUDED}", True),  # another package needs it, too
        ("sys_platform == 'linux'", True),
    ],
)
def test_only_packages_that_no_platform_gets_are_dropped(marker: str, stays: bool) -> None:
    entry = f"numba==0.65.0 ; {marker} \\\n    --hash=sha256:00\n    # via vllm\n"
    assert re.sub(locks.ENTRY, locks.without_excluded, entry + "idna==3.1 \\\n") == entry * stays + "idna==3.1 \\\n"


def test_no_lock_names_a_host() -> None:
    files = [f for room in ROOMS for f in (paths.REPO / room).rglob("*") if f.suffix in (".lock", ".txt", ".in")]
    assert len(files) >= len(OUTPUTS)
    assert [f for f in files if "://" in f.read_text()] == []


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_package_is_pinned_and_hashed(output: str) -> None:
    found = packages(output)
    assert found
    for requirement, hashes in found.items():
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,-]+\])?==[^\s;*]+( ;|$)", requirement), requirement
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"hash=sha256:[0-9a-f]{64}", h.strip()) for h in hashes), requirement


@pytest.mark.parametrize("output", COMPILED)
def test_compiled_packages_have_a_hash_for_every_platform(output: str) -> None:
    found = packages(output)
    for name in COMPILED[output]:
        # At least x86-64 and arm64, for Linux and for macOS or musl, and the source.
        # A package has several entries if the version depends on the Python.
        counts = [len(hashes) for requirement, hashes in found.items() if requirement.startswith(f"{name}==")]
        assert counts, f"no {name}"
        assert min(counts) > 6, f"{name}: {counts} hashes"


def needed(output: str, processor: str, python: str) -> set[str]:
    """The packages that a lock installs on a Linux machine with this processor."""
    machine = {
        "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": processor,
        "python_version": python, "python_full_version": f"{python}.1",
    }  # fmt: skip
    found = [Requirement(text) for text in packages(output)]
    return {r.name for r in found if r.marker is None or r.marker.evaluate(machine)}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_both_processors_get_the_same_packages(output: str, python: str) -> None:
    x86, arm = needed(output, "x86_64", python), needed(output, "aarch64", python)
    assert arm
    assert arm <= x86
    assert x86 - arm <= {"intel-openmp"}  # Intel's library for vLLM, which does not exist for arm64

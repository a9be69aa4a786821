"""bootstrap.sh on a machine where something is missing: one clear sentence, a fix, and no incomplete .venv.

It runs on a copy of the project, with a PATH that holds only what the test puts there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared import paths

COMMANDS = ("sh", "awk", "cat", "cksum", "df", "dirname", "ln", "mkdir", "mv", "rm")
# A stand-in for uv: records its arguments, and makes only what bootstrap.sh looks for in an environment.
UV = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
case "$1 $2" in
    "--version ") echo "uv 0.13.9 (stand-in)" ;;
    "venv --quiet") mkdir -p .venv/bin && ln -s "$4" .venv/bin/python ;;
    *) [ ! -e "$(dirname "$0")/offline" ] || { echo "dns error" >&2; exit 2; } ;;
esac
"""


class Project:
    """A copy of the project, and the only programs that its bootstrap.sh can find."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.cache = folder / "project", folder / "bin", folder / "cache"
        for name in ("environment", "shared"):
            shutil.copytree(paths.REPO / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(paths.REPO / "pyproject.toml", self.root)
        self.bin.mkdir()
        for name in COMMANDS:
            (self.bin / name).symlink_to(str(shutil.which(name)))

    def program(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def bootstrap(self, **env: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "PYTHON", "VIRTUAL_ENV"))}
        return subprocess.run(
            [self.root / "environment" / "bootstrap.sh"],
            cwd=self.root.parent,
            capture_output=True,
            text=True,
            timeout=60,
            env={**kept, "PATH": str(self.bin), "LABS_CACHE": str(self.cache), **env},
        )

    def refuses(self, **env: str) -> tuple[str, str]:
        """Run it, check that it fails and leaves no environment marked as complete; returns its message and its fix."""
        result = self.bootstrap(**env)
        assert result.returncode == 1, result
        assert not (self.root / ".venv" / ".ready").exists()
        message, fix = result.stderr.splitlines()[-2:]
        assert fix.startswith("Fix: ")
        return message, fix

    def asked(self) -> list[str]:
        """The arguments of all calls of uv since the last time."""
        file = self.bin / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with a suitable python3, without uv and pip."""
    project = Project(tmp_path)
    project.program("python3", f'[ "$1" = -m ] && exit 1; exec {sys.executable} "$@"')
    return project


def test_no_python(project: Project) -> None:
    (project.bin / "python3").unlink()
    message, fix = project.refuses()
    assert message == "No Python from 3.11 to 3.13 was found on the PATH (python3 is missing)."
    assert "sudo apt install python3.12" in fix
    assert "make PYTHON=" in fix
    assert not (project.root / ".venv").exists()


def test_unsuitable_python(project: Project) -> None:
    project.program("python3", '[ "$1" = --version ] && echo Python 3.9.1 || exit 1')
    message, _ = project.refuses()
    assert message == "No Python from 3.11 to 3.13 was found on the PATH (python3 is Python 3.9.1)."


def test_newer_python_beside_an_unsuitable_one_is_taken(project: Project) -> None:
    (project.bin / "python3").rename(project.bin / "python3.12")
    project.program("python3", "exit 1")
    message, _ = project.refuses()
    assert message == "Neither uv nor pip was found."  # so a Python was chosen


def test_python_that_was_asked_for_is_not_replaced(project: Project) -> None:
    message, fix = project.refuses(PYTHON="/no/such/python")
    assert message == "PYTHON=/no/such/python does not run, or is not a Python from 3.11 to 3.13."
    assert fix == "Fix: set PYTHON to another one, or unset it to use the one on the PATH"


@pytest.mark.parametrize("uv", [None, "exit 127", "echo uv 0.8.22"])
def test_neither_pip_nor_a_usable_uv(project: Project, uv: str | None) -> None:
    if uv:
        project.program("uv", uv)
    message, fix = project.refuses()
    assert message == "Neither uv nor pip was found."
    assert "sudo apt install python3-pip" in fix
    assert not (project.root / ".venv").exists()


def test_too_little_disk(project: Project) -> None:
    (project.bin / "df").unlink()
    project.program("df", "echo Filesystem 1048576-blocks Used Available; echo /dev/vda 9000 8900 100")
    message, fix = project.refuses()
    assert message == f"The set-up needs 2 GiB of disk space in {project.root}, but only 100 MiB are free."
    assert "free some space" in fix


def test_file_in_the_way_of_the_cache(project: Project) -> None:
    project.cache.touch()
    (project.bin / "python3").unlink()
    (project.bin / "python3").symlink_to(sys.executable)  # pip and all
    message, fix = project.refuses()
    assert message == f"The folder {project.cache} can't be written."
    assert "make LABS_CACHE=" in fix


def test_index_out_of_reach_while_fetching_uv(project: Project) -> None:
    (project.bin / "python3").unlink()
    project.program("python3", f'exec {sys.executable} "$@"')
    message, fix = project.refuses(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0")
    assert message == "uv could not be fetched from the package index (pip's message is above)."
    assert "check the network or pip's index settings" in fix
    assert not (project.cache / "tools" / "uv").exists()


def test_failed_install_is_done_again_from_the_start(project: Project) -> None:
    project.program("uv", UV)
    (project.bin / "offline").touch()
    message, fix = project.refuses()
    assert message == "The packages of environment/requirements.lock could not be installed (uv's message is above)."
    assert "check the network and the disk" in fix
    (project.root / ".venv" / "half").touch()
    (project.bin / "offline").unlink()
    assert project.bootstrap().returncode == 0
    assert not (project.root / ".venv" / "half").exists()
    assert (project.root / ".venv" / ".ready").exists()


def test_whole_environment_is_left_alone_until_it_is_no_longer_right(project: Project) -> None:
    project.program("uv", UV)
    assert project.bootstrap().returncode == 0
    assert [line.split()[0] for line in project.asked()] == ["--version", "venv", "pip", "pip"]

    again = project.bootstrap()
    assert (again.returncode, again.stdout, again.stderr, project.asked()) == (0, "", "", [])

    with (project.root / "environment" / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert project.bootstrap().returncode == 0
    assert len(project.asked()) == 4

    (project.root / ".venv" / "bin" / "uv").unlink()  # as after the deletion of the cache that holds it
    assert project.bootstrap().returncode == 0
    assert (project.root / ".venv" / "bin" / "uv").exists()


def test_an_activated_environment_is_made_again_too(project: Project) -> None:
    project.program("uv", UV)
    assert project.bootstrap().returncode == 0
    (project.root / "environment" / "requirements.lock").write_text("# another\n")
    activated = f"{project.root}/.venv/bin:{project.bin}"
    result = project.bootstrap(PATH=activated, VIRTUAL_ENV=str(project.root / ".venv"))
    assert result.returncode == 0, result.stderr
    assert (project.root / ".venv" / "bin" / "uv").resolve() == project.bin / "uv"

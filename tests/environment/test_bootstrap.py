"""bootstrap.sh on a machine where something is missing: one clear sentence, a fix, and no incomplete .venv.

It runs on a copy of the project, with a PATH that holds only what the test puts there.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from shared import paths

COMMANDS = ("sh", "awk", "cat", "cksum", "df", "dirname", "ln", "mkdir", "mv", "rm")
# A stand-in for uv: records its arguments, and makes only what bootstrap.sh looks for in an environment.
UV = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
echo "$UV_DEFAULT_INDEX" > "$(dirname "$0")/index"
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
            ["sh", self.root / "environment" / "bootstrap.sh"],
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
    assert "check the network, and pip's index and proxy settings" in fix
    assert not (project.cache / "tools" / "uv").exists()


def test_failed_install_is_done_again_from_the_start(project: Project) -> None:
    project.program("uv", UV)
    (project.bin / "offline").touch()
    message, fix = project.refuses()
    assert message == "The packages of environment/requirements.lock could not be installed (uv's message is above)."
    assert "check the network, the disk, and pip's index and proxy settings" in fix
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


def uv_wheel(project: Project) -> Path:
    """Let the lock of uv name a wheel that holds the stand-in. Returns the wheel's folder."""
    folder, info = project.bin.parent / "wheels", "uv-0.13.9.dist-info"
    folder.mkdir()
    wheel = folder / "uv-0.13.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        program = zipfile.ZipInfo("uv-0.13.9.data/scripts/uv")
        program.external_attr = 0o100755 << 16
        archive.writestr(program, UV)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: uv\nVersion: 0.13.9\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (project.root / "environment" / "uv.txt").write_text(f"uv==0.13.9 --hash=sha256:{digest}\n")
    return folder


PYTHON_WITHOUT_ENVIRONMENT = str(getattr(sys, "_base_executable", sys.executable))


RULES = {
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_USER": "1",
    "PIP_DRY_RUN": "1",
    "PIP_PREFIX": "/nonexistent",
    "PIP_ROOT": "/nonexistent",
}


def test_rules_on_where_pip_may_install_do_not_concern_the_fetching_of_uv(project: Project) -> None:
    if subprocess.run([PYTHON_WITHOUT_ENVIRONMENT, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("the Python outside .venv has no pip")
    project.program("python3", f'exec {PYTHON_WITHOUT_ENVIRONMENT} "$@"')
    wheels = uv_wheel(project)
    result = project.bootstrap(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels), **RULES)
    assert (result.returncode, result.stderr) == (0, "")
    assert (project.root / ".venv" / "bin" / "uv").resolve() == project.cache / "tools" / "uv" / "bin" / "uv"


@pytest.mark.parametrize("cache", ["~/my labs", "relative", "./a/../b"])
def test_uv_is_found_again_in_a_cache_of_any_spelling(project: Project, cache: str, tmp_path: Path) -> None:
    """The link to it does not dangle, so the second run has nothing to do."""
    project.program("python3", f'exec {sys.executable} "$@"')
    more = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(uv_wheel(project)), "LABS_CACHE": cache, "HOME": str(tmp_path)}
    assert project.bootstrap(**more).returncode == 0
    assert (project.root / ".venv" / "bin" / "uv").exists()
    assert not (project.root / "~").exists()
    again = project.bootstrap(**more)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.parametrize("cache", ["", "~", "~/labs", "~/my labs", "/tmp/labs", "labs", "./labs", "../labs"])
def test_the_shell_and_python_find_the_same_cache(cache: str, tmp_path: Path) -> None:
    env = {**os.environ, "LABS_CACHE": cache, "HOME": str(tmp_path / "home")}
    shell = ["sh", "environment/cache_folder.sh"]
    python = [sys.executable, "-c", "from shared import paths; print(paths.cache().absolute())"]
    found = [
        subprocess.run(one, env=env, cwd=paths.REPO, capture_output=True, text=True, check=True).stdout.strip()
        for one in (shell, python)
    ]
    assert os.path.normpath(found[0]) == os.path.normpath(found[1])


def test_the_short_form_of_another_home_is_refused_by_name(project: Project) -> None:
    message, fix = project.refuses(LABS_CACHE="~nobody/labs")
    assert message == "LABS_CACHE=~nobody/labs names another user's home folder in a short form."
    assert "write the path in full" in fix


def test_a_mirror_in_pips_configuration_file_is_handed_to_uv(project: Project) -> None:
    project.program("uv", UV)
    (project.bin / "python3").unlink()
    (project.bin / "python3").symlink_to(sys.executable)
    file = project.bin.parent / "pip.conf"
    file.write_text("[global]\nindex-url = https://mirror.example/simple\n")
    assert project.bootstrap(PIP_CONFIG_FILE=str(file)).returncode == 0
    assert (project.bin / "index").read_text() == "https://mirror.example/simple\n"


def test_a_checkout_without_run_bits_is_set_up(project: Project) -> None:
    """As from a zip archive: whatever `make` runs, it calls through its interpreter."""
    project.program("uv", UV)
    shutil.copy(paths.REPO / "Makefile", project.root)
    for name in ("bash", "make"):
        (project.bin / name).symlink_to(str(shutil.which(name)))
    for script in project.root.rglob("*.sh"):
        script.chmod(0o644)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON", "MAKE"))}
    env = {**kept, "PATH": str(project.bin), "LABS_CACHE": str(project.cache)}
    done = subprocess.run(["make", "setup"], cwd=project.root, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (project.root / ".venv" / ".ready").exists()


def test_a_checkout_of_git_for_windows_keeps_the_line_ends(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    files = (".gitattributes", "Makefile", "environment/bootstrap.sh", "environment/cache_folder.sh", ".ci/run")
    for file in files:
        (origin / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths.REPO / file, origin / file)
    (origin / "any.txt").write_text("a line\n")
    who = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    windows = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf")
    subprocess.run(["git", "clone", "-q", *windows, origin, clone], check=True)
    for file in (*files, "any.txt"):
        assert b"\r" not in (clone / file).read_bytes(), file


def test_clean_keeps_the_models_of_others(tmp_path: Path) -> None:
    """LABS_CACHE=/big/disk, where a folder of models was before."""
    root, models = tmp_path / "project", tmp_path / "disk" / "models"
    (root / "environment").mkdir(parents=True)
    shutil.copy(paths.REPO / "Makefile", root)
    shutil.copy(paths.REPO / "environment" / "cache_folder.sh", root / "environment")
    made = ("small-0123456789ab", "small-ba9876543210.partial", "small-gguf-0123456789ab", "ollama")
    mine = ("Llama-3.1-70B", "Qwen3-0.6B-abc", "elsewhere", "small.gguf")
    for name in (*made, *mine):
        (models / name).mkdir(parents=True)
    (models / "small").symlink_to("small-0123456789ab")
    (models / "small-gguf").symlink_to("small-gguf-0123456789ab")
    (models / "mine").symlink_to("Llama-3.1-70B")
    clean = ["make", "-s", "clean", f"LABS_CACHE={models.parent}"]
    subprocess.run(clean, cwd=root, capture_output=True, text=True, check=True)
    assert sorted(one.name for one in models.iterdir()) == sorted([*mine, "mine"])


@pytest.mark.parametrize("cache", ["cache", "my cache"])
def test_clean_empties_the_cache_and_says_so(tmp_path: Path, cache: str) -> None:
    root, folder = tmp_path / "project", tmp_path / cache
    (root / "environment").mkdir(parents=True)
    shutil.copy(paths.REPO / "Makefile", root)
    shutil.copy(paths.REPO / "environment" / "cache_folder.sh", root / "environment")
    made = ("engines/vllm", "prefill-engines", "detached-builds", "build-tools-48c2", "models", "torchinductor", "logs")
    for name in (*made, "mine"):
        (folder / name).mkdir(parents=True)
    (root / "results").mkdir()
    for said in (f"removed what was in {folder}", f"removed what was in {folder}"):
        clean = ["make", "-s", "clean", f"LABS_CACHE={folder}"]
        done = subprocess.run(clean, cwd=root, capture_output=True, text=True, check=True)
        assert said in done.stdout
        assert [one.name for one in folder.iterdir()] == ["mine"]
    assert (root / "results").exists()
    shutil.rmtree(folder)
    done = subprocess.run(["make", "-s", "clean", f"LABS_CACHE={folder}"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, f"no cache in {folder}" in done.stdout) == (0, True)

"""When the set-up can't continue, it prints what is wrong and what to do, without a traceback."""

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from environment.install_steps import need_room
from shared import LabError, paths
from tests.helpers.processes import Run, alive, finish, read_pid

pytest_plugins = ["tests.helpers.made_up_steps"]


def test_failed_step_stops_the_others_and_says_why(tmp_path: Path, labs_cache: Path, installing: Run) -> None:
    process = installing(
        f"step('bad', 'while [ ! -e {tmp_path}/pid ]; do sleep 0.02; done;"
        "seq 30; echo No space left on device; exit 3'),"
        f"step('other', 'echo $$ > {tmp_path}/pid; sleep 60'), step('later', 'true', after=('bad',))"
    )
    code, _, err = finish(process)
    assert code == 1
    assert err.splitlines()[1] == "BAD: working failed (exit 3). Last lines of its log:"
    assert err.splitlines()[2:-1] == [f"  | {n}" for n in range(17, 31)] + ["  | No space left on device"]
    log = paths.show(labs_cache / "logs" / "install-bad.log")
    fix = f"Fix: the disk is full: free some disk space, then run the same command again; full log: {log}"
    assert err.splitlines()[-1] == fix
    assert not alive(read_pid(tmp_path / "pid"))
    assert not list(labs_cache.glob("later*"))


@pytest.mark.parametrize("how", ["[1][2]", "(_ for _ in ()).throw(LabError('it gave no token.', 'look'))",
                                 "(_ for _ in ()).throw(LabError('its text is wrong.'))"])  # fmt: skip
def test_a_failed_proof_stops_no_other_step(tmp_path: Path, labs_cache: Path, installing: Run, how: str) -> None:
    """No step builds on a proof. All failed proofs are reported at the end."""
    proof = f"verify=lambda job: [__import__('pathlib').Path('{tmp_path}/proved').touch(), {how}]"
    process = installing(
        f"step('bad', 'true', {proof}), step('worse', 'true', {proof}),"
        f"step('other', 'while [ ! -e {tmp_path}/proved ]; do sleep 0.02; done; sleep 0.5'),"
        "step('later', 'true', after=('other',)), step('good', 'true', verify=lambda job: 'proved')"
    )
    code, out, err = finish(process)
    assert code == 1
    assert "LATER: ready" in out
    assert "GOOD: proved" in out
    assert out.count("The other steps continue.") == 2
    assert err.count("Fix: ") == 2
    for name in ("bad", "worse", "other", "later", "good"):
        assert (labs_cache / name).is_symlink()
        assert (labs_cache / name / "verified.txt").exists() == (name == "good")


BAD = "step('bad', 'touch {0}/failed; exit 3')"


def test_a_failed_step_that_no_other_needs_stops_none(tmp_path: Path, labs_cache: Path, installing: Run) -> None:
    """Without SGLang, a student can still use vLLM."""
    other = f"step('other', 'while [ ! -e {tmp_path}/failed ]; do sleep 0.02; done; sleep 0.5')"
    bad = BAD.format(tmp_path)
    code, out, err = finish(installing(f"{bad}, {other}, step('later', 'true', after=('other',))"))
    assert code == 1
    assert "LATER: ready" in out
    assert out.count("BAD: working failed (exit 3). The other steps continue.") == 1
    assert err.count("Fix: ") == 1


@pytest.mark.parametrize("needs", ["after", "verify_after"])
def test_a_failed_step_that_another_needs_stops_all(
    tmp_path: Path, labs_cache: Path, installing: Run, needs: str
) -> None:
    code, out, _ = finish(installing(f"{BAD.format(tmp_path)}, step('more', 'sleep 60', {needs}=('bad',))"))
    assert code == 1
    assert "The other steps continue." not in out


def test_unexpected_failure_shows_no_traceback(tmp_path: Path, labs_cache: Path, installing: Run) -> None:
    code, _, err = finish(installing("step('tool', 'true', verify=lambda job: [1][2])"))
    assert code == 1
    assert "TOOL: answering the first prompts failed unexpectedly (IndexError: list index out of range)." in err
    assert (
        "Fix: this is a bug in the labs: show your instructor the end of the log, then run the same command again; "
        "full log: " in err
    )
    assert "Traceback" not in err
    assert "Traceback" in (labs_cache / "logs" / "install-tool.log").read_text()


def test_too_little_disk_says_needed_and_there(tmp_path: Path, labs_cache: Path, installing: Run) -> None:
    with pytest.raises(
        LabError, match=r"^vLLM needs 1000000\.0 GiB of disk space, but only \d+\.\d GiB are free in .+\nFix: "
    ):
        need_room(labs_cache / "engines", 1e6, "vLLM")
    code, _, err = finish(installing("step('tool', 'true', needs_gib=1e6)"))
    assert code == 1
    assert err.strip().startswith("TOOL needs 1000000.0 GiB of disk space, but only ")
    assert "make LABS_CACHE=" in err


@pytest.mark.parametrize("inside", ["", "sub/folder"])
def test_file_in_the_way_of_the_cache(tmp_path: Path, installing: Run, inside: str) -> None:
    (tmp_path / "file").touch()
    code, out, err = finish(installing("step('tool', 'true')", LABS_CACHE=str(tmp_path / "file" / inside)))
    assert (code, out) == (1, "")
    assert err.startswith(f"The set-up can't write to its cache, {tmp_path / 'file' / inside}: ")
    assert len(err.splitlines()) == 2
    assert "make LABS_CACHE=" in err


@pytest.mark.parametrize("there", [[], ["cc"]])
def test_missing_compiler_is_told_before_any_download(
    tmp_path: Path, labs_cache: Path, installing: Run, there: list[str]
) -> None:
    for name in there:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    steps = f"step('model', 'touch {tmp_path}/downloaded'), step('engines/llamacpp', 'true')"
    code, out, err = finish(installing(steps, PATH=str(tmp_path / "bin"), CXX="", CC=""))
    assert (code, out) == (1, "")
    assert err == (
        "ENGINES/LLAMACPP is compiled on this machine, and the compiler c++ is not on the PATH.\n"
        "Fix: sudo apt install g++, then run the same command again\n"
    )
    assert not (tmp_path / "downloaded").exists()


def test_compiler_is_needed_only_for_compiling(tmp_path: Path, installing: Run) -> None:
    assert finish(installing("step('engines/llamacpp', 'true')"))[0] == 0
    bare = {"PATH": str(tmp_path), "CXX": "", "CC": ""}
    (tmp_path / "sh").symlink_to("/bin/sh")
    steps = "step('engines/llamacpp', 'true'), step('model', ':')"
    assert finish(installing(steps, **bare))[0] == 0


def lock_for(file: Path, name: str, content: bytes) -> str:
    file.write_text(f"{name}==1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
    return str(file)


def tiny_wheel(folder: Path) -> Path:
    """An empty package as a wheel, which pip accepts."""
    folder.mkdir()
    wheel, info = folder / "tiny_tool-1.0-py3-none-any.whl", "tiny_tool-1.0.dist-info"
    files = {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-tool\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        record = "".join(
            f"{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).decode().rstrip('=')},{len(t)}\n"
            for n, t in files.items()
        )
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return wheel


def test_tampered_wheel_is_refused(tmp_path: Path, labs_cache: Path, installing: Run) -> None:
    wheel = tiny_wheel(tmp_path / "wheels")
    lock = lock_for(tmp_path / "tool.lock", "tiny-tool", wheel.read_bytes())
    steps = f"step('tool', 'ls downloads', lock={lock!r})"
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent), "PIP_NO_CACHE_DIR": "1"}
    pristine = wheel.read_bytes()
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny_tool.py", "print('not what was pinned')\n")
    code, _, err = finish(installing(steps, **offline))
    assert code == 1
    assert "Fix: the downloaded file differs from the pinned one" in err
    assert not (labs_cache / "tool").exists()
    assert not list(labs_cache.rglob("*.whl"))
    wheel.write_bytes(pristine)
    assert finish(installing(steps, **offline))[0] == 0
    assert (labs_cache / "tool" / "downloads" / wheel.name).read_bytes() == pristine


NOWHERE = "http://127.0.0.1:9/simple"


@pytest.mark.parametrize("retries", ["0", "1"])
def test_pip_index_out_of_reach(tmp_path: Path, installing: Run, retries: str) -> None:
    lock = lock_for(tmp_path / "tool.lock", "tiny-tool", b"")
    code, _, err = finish(
        installing(f"step('tool', 'true', lock={lock!r})", PIP_INDEX_URL=NOWHERE, PIP_RETRIES=retries)
    )
    assert code == 1
    fix = err.strip().splitlines()[-1]
    assert fix.startswith("Fix: the package index ")
    assert "can't be reached: check" in fix
    assert "PIP_INDEX_URL" in fix


def test_uv_index_out_of_reach(tmp_path: Path, installing: Run) -> None:
    lock = lock_for(tmp_path / "tool.lock", "tiny-tool", b"")
    script = f"{paths.REPO}/.venv/bin/uv pip install --target there --require-hashes --no-deps -r {lock}"
    env = {
        "UV_DEFAULT_INDEX": NOWHERE,
        "UV_HTTP_RETRIES": "0",
        "UV_CACHE_DIR": str(tmp_path / "uv"),
        "UV_FIND_LINKS": "",
    }
    code, _, err = finish(installing(f"step('tool', {script!r})", **env))
    assert code == 1
    assert "Fix: the package index can't be reached: check the network or the index settings" in err

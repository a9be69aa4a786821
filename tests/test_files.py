"""Failed writes and locks: what the message advises can work, whoever owns the files, and locks that don't exist."""

import errno
import fcntl
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared import LabError, files, paths
from shared.files import exclusive, held, locks_work, measuring
from tests.helpers.another_user import as_another, as_root, opened


@pytest.fixture(autouse=True)
def short_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    ran = 0
    for name in ("one", "one", "two"):
        with exclusive(tmp_path / name, "never printed"):
            assert not held(tmp_path / name)
            ran += 1
    out, err = capsys.readouterr()
    assert (ran, out) == (3, "")
    assert err.count("has no file locks") == 1
    assert locks_work(tmp_path) is False


def test_any_other_fault_of_a_lock_is_still_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(LabError, match="The ledger can't be written: "), exclusive(tmp_path / "lock", "", "The ledger"):
        pytest.fail("the body ran without the lock")
    assert locks_work(tmp_path) is None


def test_locks_are_tried_where_a_folder_will_be(tmp_path: Path) -> None:
    assert locks_work(tmp_path / "not" / "yet") is True
    assert not list(tmp_path.iterdir())


def test_a_measurement_inside_of_another_one_waits_for_nothing() -> None:
    with measuring():
        with measuring():
            assert held(paths.measuring())
        assert held(paths.measuring())
    assert not held(paths.measuring())


def test_a_measurement_waits_for_that_of_another_program(capsys: pytest.CaptureFixture[str]) -> None:
    code = "from shared.files import measuring\nwith measuring(): print('held', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, cwd=paths.REPO) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        begun = threading.Event()

        def measure() -> None:
            with measuring():
                begun.set()

        thread = threading.Thread(target=measure)
        thread.start()
        assert not begun.wait(0.5)
        assert "Another measurement is running on this machine; waiting for it" in capsys.readouterr().out
        other.communicate("\n")
    thread.join(10)
    assert begun.is_set()


@as_root
def test_a_second_user_waits_for_a_lock_that_belongs_to_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "measuring.lock"
    opened(tmp_path)
    with exclusive(lock, "never printed"):
        other = as_another(
            "with exclusive(Path(sys.argv[1]), 'waiting'): print('inside', flush=True); time.sleep(60)", lock
        )
        assert other.stdout
        assert other.stdout.readline() == "waiting\n"
    try:
        assert other.stdout.readline() == "inside\n"
        assert held(lock)
    finally:
        other.kill()
        other.communicate()
    assert not held(lock)


@as_root
def test_a_second_user_without_a_lock_file_gets_an_error_with_a_fix(tmp_path: Path) -> None:
    opened(tmp_path)
    code = "try:\n  with exclusive(Path(sys.argv[1]), ''): pass\nexcept LabError as e: print(e)"
    out, err = as_another(code, tmp_path / "lock").communicate(timeout=30)
    assert err == ""
    assert f"{tmp_path}/lock can't be written: Permission denied." in out
    assert "Fix: " in out


@as_root
def test_a_file_of_an_unknown_user_below_a_closed_folder_has_a_fix_too(tmp_path: Path) -> None:
    """Neither a missing user name nor a folder that can't be looked into ends the advice itself."""
    closed = tmp_path / "closed"
    (closed / "inside").mkdir(parents=True)
    opened(tmp_path)
    os.chown(closed, 54321, 54321)
    closed.chmod(0o700)
    code = "try: write(Path(sys.argv[1]), b'')\nexcept LabError as e: print(e)"
    out, err = as_another(code, closed / "inside" / "folder" / "file").communicate(timeout=30)
    assert err == ""
    assert "can't be written: Permission denied." in out
    assert "belongs to user 54321, who has no name here" in out


def advice(file: Path, number: int = errno.EACCES) -> str:
    with pytest.raises(LabError) as error, files.writing(file):
        raise OSError(number, os.strerror(number))
    return error.value.fix


def test_a_lock_of_roots_in_ones_own_folder_is_handed_over(own_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """chmod can't change a file of root's, so the file itself changes hands."""
    lock = own_results / ".3.3.1.lock"
    own_results.mkdir()
    lock.touch()
    real = Path.stat
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    mine = os.stat_result((0o40755, 0, 0, 1, 54321, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda path, **how: mine if path == own_results else real(path, **how))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != lock)
    fix = advice(lock)
    assert re.search(rf'sudo chown -R "\$USER" \S*{re.escape(lock.name)};', fix), fix
    assert "chmod" not in fix


def test_a_folder_that_belongs_to_all_is_never_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setenv("LABS_RESULTS", "/my results/of this course")
    fix = advice(paths.results() / "3.3.1" / "one.json")
    folder = "'/my results/of this course'"
    assert f'/ belongs to root: sudo mkdir -p {folder} && sudo chown "$USER" {folder}; or choose another' in fix
    assert "chown -R" not in fix


def test_advice_can_be_pasted_into_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_RESULTS", str(tmp_path / "my results"))
    paths.results().mkdir()
    for number in (errno.EACCES, errno.ENOSPC, errno.EIO):
        assert f"'{tmp_path}/my results'" in advice(paths.results() / "file", number)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LABS_RESULTS", str(tmp_path / "results"))
    paths.results().mkdir()
    assert advice(paths.results() / "file").startswith("chmod -R u+rwX ~/results;")

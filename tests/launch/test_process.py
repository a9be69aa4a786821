"""The guard of shared/launch/process.py: however its owner ends, no process that it started is left.

The owner is a real Python process that is really killed. Its processes are found by their ids in /proc.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared import LabError, paths
from shared.files import exclusive, held
from shared.launch.process import Adopted, Guarded
from shared.processes import free_port, port_taken, start_time
from tests.helpers.processes import alive, eventually, read_pid

OWNER = """
import sys, time
from pathlib import Path
from shared.launch.process import Guarded
with open(sys.argv[1], "wb") as log:
    guarded = Guarded(["sh", "-c", sys.argv[2]], log)
print(guarded.pid, file=Path(sys.argv[3]).open("w"), flush=True)
time.sleep(60)
"""

# A child, a grandchild, and a grandchild in a session of its own; each writes its id to a file.
FAMILY = """
echo $$ > {d}/child.pid
sh -c 'echo $$ > {d}/grandchild.pid; exec sleep 60' &
setsid sh -c 'echo $$ > {d}/setsid.pid; exec sleep 60' &
wait
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a program that guards the given shell script. The program is ended after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", OWNER, str(tmp_path / "log"), script, str(tmp_path / "watchdog.pid")]
        started.append(subprocess.Popen(command, cwd=paths.REPO))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_killed_owner_takes_the_whole_family_along(
    tmp_path: Path, owner: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    process = owner(FAMILY.format(d=tmp_path))
    family = [read_pid(tmp_path / f"{name}.pid") for name in ("watchdog", "child", "grandchild", "setsid")]
    assert all(alive(pid) for pid in family)
    assert os.getsid(family[3]) == family[3] != os.getsid(family[1])
    process.kill()
    assert eventually(lambda: not any(alive(pid) for pid in family))


@pytest.mark.parametrize("prelude", ["", "trap '' TERM;"])
def test_killed_owner_takes_stubborn_and_paused_children_along(
    tmp_path: Path, owner: Callable[[str], subprocess.Popen[bytes]], prelude: str
) -> None:
    process = owner(f"{prelude} echo $$ > {tmp_path}/child.pid; while :; do sleep 0.2; done")
    child = read_pid(tmp_path / "child.pid")
    if not prelude:
        os.kill(child, signal.SIGSTOP)
    process.kill()
    assert eventually(lambda: not alive(child))


def test_killed_watchdog_takes_its_command_along(
    tmp_path: Path, owner: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    owner(f"echo $$ > {tmp_path}/child.pid; exec sleep 60")
    child, watchdog = read_pid(tmp_path / "child.pid"), read_pid(tmp_path / "watchdog.pid")
    os.kill(watchdog, signal.SIGKILL)
    assert eventually(lambda: not alive(child))


@pytest.mark.parametrize("ended_by", ["owner", "command"])
def test_no_temporary_file_of_the_command_is_left(
    tmp_path: Path, owner: Callable[[str], subprocess.Popen[bytes]], ended_by: str
) -> None:
    process = owner(f"mktemp -d; mktemp; echo $$ > {tmp_path}/child.pid; exec sleep 60")
    child = read_pid(tmp_path / "child.pid")
    made = [Path(line) for line in (tmp_path / "log").read_text().split()]
    folder = made[0].parent
    assert len(made) == 2
    assert all(one.exists() and one.parent == folder for one in made)
    process.kill() if ended_by == "owner" else os.kill(child, signal.SIGTERM)
    assert eventually(lambda: not folder.exists())


def test_what_torch_compiled_is_kept_for_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # set by torch in the tests' own process
    process = guarded(tmp_path, "sh", "-c", 'mkdir -p "$TORCHINDUCTOR_CACHE_DIR/fxgraph"')
    assert eventually(lambda: process.exit_code() == 0)
    process.end()
    assert (tmp_path / "torchinductor" / "fxgraph").exists()


def guarded(tmp_path: Path, *command: str, nice: int = 0) -> Guarded:
    with (tmp_path / "log").open("wb") as log:
        return Guarded(list(command), log, nice=nice)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143)])
def test_exit_code_comes_through(tmp_path: Path, script: str, code: int) -> None:
    process = guarded(tmp_path, "sh", "-c", script)
    assert eventually(lambda: process.exit_code() is not None)
    assert process.exit_code() == code
    process.end()


def test_killed_watchdog_reads_as_a_signal(tmp_path: Path) -> None:
    process = guarded(tmp_path, "sleep", "60")
    os.kill(process.pid, signal.SIGKILL)
    assert eventually(lambda: process.exit_code() is not None)
    assert process.exit_code() == 137
    process.end()


def test_missing_program_is_named(tmp_path: Path) -> None:
    process = guarded(tmp_path, "no-such-program-here")
    process.end()
    assert process.exit_code() == 127
    assert (tmp_path / "log").read_text() == "cannot start no-such-program-here: No such file or directory\n"


def test_end_leaves_nothing_and_may_be_called_again(tmp_path: Path) -> None:
    process = guarded(tmp_path, "sh", "-c", FAMILY.format(d=tmp_path))
    family = [read_pid(tmp_path / f"{name}.pid") for name in ("child", "grandchild", "setsid")]
    process.end()
    process.end()
    assert process.exit_code() == 143
    assert not any(alive(pid) for pid in family)


def test_what_a_finished_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    process = guarded(tmp_path, "sh", "-c", f"setsid sh -c 'echo $$ > {tmp_path}/left.pid; exec sleep 60' & exit 3")
    assert eventually(lambda: process.exit_code() == 3)
    left = tmp_path / "left.pid"  # perhaps it was ended before it could write
    assert not left.exists() or not left.read_text() or not alive(int(left.read_text()))


def test_runs_at_the_given_niceness(tmp_path: Path) -> None:
    process = guarded(tmp_path, "nice", nice=5)  # without arguments it prints its own
    assert eventually(lambda: process.exit_code() == 0)
    assert int((tmp_path / "log").read_text()) == os.nice(0) + 5


def test_failed_start_leaves_no_open_file(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with (tmp_path / "log").open("wb") as log, pytest.raises(FileNotFoundError):
        Guarded(["true"], log, cwd=tmp_path / "missing")
    assert os.listdir("/proc/self/fd") == before


def test_port_is_free_until_somebody_listens() -> None:
    port = free_port()
    assert not port_taken(port)
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))
        s.listen()
        assert port_taken(port)


HOLDER = """
import sys, time
from pathlib import Path
from shared.files import exclusive
with exclusive(Path(sys.argv[1]), "waiting for the other"):
    print("inside", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_one_waits_for_the_other_and_says_so(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "lock"
    assert not held(lock)
    run = [sys.executable, "-c", HOLDER, str(lock)]
    first = subprocess.Popen([*run, "60"], stdout=subprocess.PIPE, text=True, cwd=paths.REPO)
    assert first.stdout
    assert first.stdout.readline() == "inside\n"
    assert held(lock)
    second = subprocess.Popen([*run, "0"], stdout=subprocess.PIPE, text=True, cwd=paths.REPO)
    assert second.stdout
    assert second.stdout.readline() == "waiting for the other\n"
    first.kill()  # even this frees the lock
    first.communicate()
    assert second.communicate(timeout=20)[0] == "inside\n"
    assert not held(lock)


def test_a_lock_that_cannot_be_written_is_an_error_with_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").write_text("a file where a folder should be")
    lock = tmp_path / "cache" / "lock"
    for what in ("", "The measurement"):
        with pytest.raises(LabError) as error, exclusive(lock, "never printed", what):
            pytest.fail("the body ran without the lock")
        assert str(error.value).startswith(f"{what or lock} can't be written: ")
        assert "export LABS_CACHE=" in error.value.fix
    assert not held(lock)
    with pytest.raises(OSError, match="of the body"), exclusive(tmp_path / "lock", "never printed"):
        raise OSError("of the body")


def test_looking_whether_a_lock_is_held_neither_creates_nor_disturbs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "lock"
    assert not held(lock)
    assert not lock.exists()
    looks, ended = 0, threading.Event()

    def look() -> None:
        nonlocal looks
        while not ended.wait(0.001):
            held(lock)
            looks += 1

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            before = looks
            with exclusive(lock, "waiting"):
                assert held(lock)
            assert eventually(lambda before=before: looks > before)  # type: ignore[misc]
    finally:
        ended.set()
        looking.join()
    assert capsys.readouterr().out == ""


def test_what_has_an_owner_outlives_its_parent_and_ends_with_the_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen(["sleep", "60"])
    code = OWNER.replace("log)", f"log, owner={owner.pid})").replace("time.sleep(60)", "")
    log, pid = tmp_path / "log", tmp_path / "pid"
    subprocess.run([sys.executable, "-c", code, str(log), "sleep 50", str(pid)], cwd=paths.REPO, check=True)
    watchdog = read_pid(pid)
    assert not eventually(lambda: not alive(watchdog), 1.5)
    owner.kill()
    owner.wait()
    assert eventually(lambda: not alive(watchdog))


def test_an_owned_process_is_found_again_and_ended(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        owned = Guarded(["sleep", "50"], log, owner=os.getpid())
    started = start_time(owned.pid)
    assert started
    found = Adopted(owned.pid, started)
    assert found.exit_code() is None
    assert Adopted(owned.pid, started + 1).exit_code() is not None  # a later process with the same id
    found.end()
    assert found.exit_code() is not None
    owned.end()


def test_an_owner_that_is_gone_starts_nothing(tmp_path: Path) -> None:
    owner = subprocess.Popen(["true"])
    owner.wait()
    with (tmp_path / "log").open("wb") as log:
        owned = Guarded(["sleep", "50"], log, owner=owner.pid)
        assert eventually(lambda: owned.exit_code() == 143)
    assert f"the owner, process {owner.pid}, has ended" in (tmp_path / "log").read_text()
    owned.end()

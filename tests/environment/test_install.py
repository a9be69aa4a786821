"""The set-up (`make engines`) on small made-up steps: interrupted, killed, repeated, and run twice at once."""

import signal
import time
from pathlib import Path

import pytest

from environment.install import STEPS, choose
from shared.files import exclusive
from tests.helpers.processes import INTERRUPTED, START_S, Run, alive, appears, eventually, finish, read_pid

pytest_plugins = ["tests.helpers.made_up_steps"]

# The first build runs for a minute, with a process in its own session. The second continues from its file.
LONG = """step("tool", '''
    [ -e half ] && {{ touch whole; echo "went on from $(cat half)"; exit; }}
    setsid sh -c "echo \\\\$\\\\$ > {0}/far.pid; exec sleep 60" &
    echo yesterday > half; echo $$ > {0}/near.pid; wait
''')"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_build_leaves_nothing_running_and_goes_on(
    tmp_path: Path, labs_cache: Path, installing: Run, how: signal.Signals
) -> None:
    steps = LONG.format(tmp_path)
    process = installing(steps)
    builders = [read_pid(tmp_path / f"{name}.pid") for name in ("near", "far")]
    process.send_signal(how)
    assert eventually(lambda: process.poll() is not None and not any(alive(pid) for pid in builders))
    code, _, err = finish(process)
    if how != signal.SIGKILL:
        assert code in INTERRUPTED
        assert err.strip() == "Stopped. Nothing is left running. Run the same command again to continue."
    assert not (labs_cache / "tool").exists()
    assert [f.suffix for f in labs_cache.glob("tool-*")] == [".partial"]

    code, _, err = finish(installing(steps))
    assert (code, err) == (0, "")
    assert (labs_cache / "tool" / "half").read_text() == "yesterday\n"
    assert (labs_cache / "tool" / "whole").exists()
    assert "went on from yesterday" in (labs_cache / "logs" / "install-tool.log").read_text()


@pytest.mark.parametrize("engine", ["llamacpp", "ollama", "vllm", "sglang"])
def test_every_proof_waits_for_the_reference(engine: str) -> None:
    # The cache may hold an engine, built but not proved, while a new .venv has no torch yet.
    assert {"torch", "models/smollm2-135m-instruct"} <= set(STEPS[f"engines/{engine}"].verify_after)


def test_second_ctrl_c_changes_nothing(tmp_path: Path, installing: Run) -> None:
    process = installing(f"step('tool', \"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done\")")
    builder = read_pid(tmp_path / "pid")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    code, _, err = finish(process)
    assert code in INTERRUPTED
    assert err.strip().startswith("Stopped.")
    assert "Traceback" not in err
    assert not alive(builder)


def test_nohup_is_respected(tmp_path: Path, installing: Run) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a new process inherits, as from nohup
    try:
        script = f"echo > {tmp_path}/started; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
        process = installing(f"step('tool', '{script}')")
    finally:
        signal.signal(signal.SIGHUP, before)
    appears(tmp_path / "started")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    (tmp_path / "go").touch()
    assert finish(process)[0] == 0


def test_ctrl_c_does_not_wait_for_a_proof(labs_cache: Path, installing: Run, tmp_path: Path) -> None:
    proof = f"lambda job: [Path('{tmp_path}/proving').write_text('x'), __import__('time').sleep(60)]"
    process = installing(f"step('tool', 'true', verify={proof})")
    appears(tmp_path / "proving")
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    code, _, err = finish(process)
    assert code in INTERRUPTED
    assert err.strip().startswith("Stopped.")
    assert time.monotonic() - began < 15
    assert (labs_cache / "tool").is_dir()  # built, and whole
    assert not (labs_cache / "tool" / "verified.txt").exists()


def test_changed_input_builds_again_and_the_old_one_serves_until_then(
    tmp_path: Path, labs_cache: Path, installing: Run
) -> None:
    steps = f"""step("tool", '''
        cat {tmp_path}/input > content
        [ $(cat content) = one ] && exit
        echo x > {tmp_path}/started
        while [ ! -e {tmp_path}/go ]; do sleep 0.05; done
    ''')"""
    assert finish(installing(steps))[0] == 0
    (labs_cache / "tool-gguf-0123456789ab").mkdir()  # of another step, whose name begins with the same word
    (tmp_path / "input").write_text("two")
    process = installing(steps)
    appears(tmp_path / "started")
    assert (labs_cache / "tool" / "content").read_text() == "one"
    (tmp_path / "go").touch()
    assert finish(process)[0] == 0
    assert (labs_cache / "tool" / "content").read_text() == "two"
    left = {f.name for f in labs_cache.glob("tool*")}
    assert left == {"tool", (labs_cache / "tool").resolve().name, "tool-gguf-0123456789ab"}


def test_half_built_for_other_inputs_does_not_fill_the_disk(tmp_path: Path, labs_cache: Path, installing: Run) -> None:
    assert finish(installing("step('tool', 'touch half; false')"))[0] == 1
    (tmp_path / "input").write_text("two")
    assert finish(installing("step('tool', 'true')"))[0] == 0
    assert {f.name for f in labs_cache.glob("tool*")} == {"tool", (labs_cache / "tool").resolve().name}


def test_ready_set_does_nothing(labs_cache: Path, installing: Run) -> None:
    steps = "step('tool', 'echo once'), step('model', 'true', after=('tool',), verify=lambda job: 'answers')"
    code, out, _ = finish(installing(steps))
    assert (code, "MODEL: answers" in out) == (0, True)
    before = {f: f.stat().st_mtime_ns for f in labs_cache.rglob("*")}
    assert finish(installing(steps)) == (0, "", "")
    assert {f: f.stat().st_mtime_ns for f in labs_cache.rglob("*")} == before


def test_named_steps_come_with_what_they_need_and_no_more(labs_cache: Path, installing: Run) -> None:
    steps = "step('a', 'true'), step('b', 'true', after=('a',)), step('c', 'false', after=('b',))"
    assert finish(installing(steps, "b"))[0] == 0
    assert {f.name for f in labs_cache.iterdir() if f.is_symlink()} == {"a", "b"}


def test_name_that_is_no_step_is_told(installing: Run) -> None:
    code, _, err = finish(installing("step('a', 'true'), step('b', 'true')", "x"))
    assert (code, err) == (1, "No such step: x.\nFix: name one of: a, b\n")


def test_two_runs_on_one_cache_wait_for_each_other(tmp_path: Path, installing: Run) -> None:
    steps = f"""step("tool", '''
        echo built >> {tmp_path}/builds
        while [ ! -e {tmp_path}/go ]; do sleep 0.05; done
    ''')"""
    first = installing(steps)
    appears(tmp_path / "builds")
    second = installing(steps)
    assert second.stdout is not None
    assert second.stdout.readline() == "Another set-up is running on this cache; waiting for it ...\n"
    assert second.poll() is None
    (tmp_path / "go").touch()
    assert (finish(first)[0], finish(second)[0]) == (0, 0)
    assert (tmp_path / "builds").read_text() == "built\n"


def test_a_measurement_holds_the_builds(tmp_path: Path, labs_cache: Path, installing: Run) -> None:
    count = tmp_path / "count"
    process = installing(f"step('tool', 'while [ ! -e {tmp_path}/go ]; do echo x >> {count}; sleep 0.01; done')")
    appears(count)
    with exclusive(labs_cache / "measuring.lock", "never printed"):

        def stands_still() -> bool:
            before = count.stat().st_size
            time.sleep(0.4)
            return count.stat().st_size == before

        assert eventually(stands_still)
        before = count.stat().st_size
        time.sleep(0.4)
        assert count.stat().st_size == before
    assert eventually(lambda: count.stat().st_size > before)
    status = labs_cache / "logs" / "install-status.txt"
    assert eventually(lambda: status.exists() and "TOOL: working" in status.read_text())
    (tmp_path / "go").touch()
    assert finish(process)[0] == 0


def test_a_proof_waits_for_a_measurement(tmp_path: Path, labs_cache: Path, installing: Run) -> None:
    proof = f"lambda job: Path('{tmp_path}/proving').write_text('x') and 'answers'"
    with exclusive(labs_cache / "measuring.lock", "never printed"):
        process = installing(f"step('tool', 'true', verify={proof})")
        assert eventually(lambda: (labs_cache / "tool").is_dir(), START_S)
        time.sleep(0.5)
        assert not (tmp_path / "proving").exists()
    code, out, _ = finish(process)
    assert (code, "TOOL: answers" in out) == (0, True)


def test_open_webui_is_installed_only_where_it_is_named() -> None:
    assert "open-webui" not in choose([])
    assert list(choose(["open-webui"])) == ["open-webui"]  # it is proved without an engine

"""Real engines: started, judged, refused with a reason, and gone when their program is gone."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from shared import LabError, load, metrics, paths
from shared.course import labs
from shared.engines import ENGINES, LaunchPlan
from shared.engines.http import client, counters, greedy_tokens, post_json
from shared.files import exclusive
from shared.hardware import Machine, detect
from shared.launch import alone, down, launch, launcher, stop_all
from shared.launch.launcher import start_native, wait_until_ready
from shared.launch.memory import Need
from shared.launch.running import Engine
from shared.load import Closed, Load, prompts, stream
from shared.load.prompts import CHECK_QUESTIONS, chat
from shared.metrics.correctness import gap_fault
from shared.metrics.summary import Summary
from shared.models import ModelChoice
from shared.processes import descendants, free_port, port_taken, start_time
from tests.helpers.processes import start_student

pytestmark = pytest.mark.engine

SMALL = {"-np": 4, "-c": 8192}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    stop_all()


@pytest.fixture
def engine(model: ModelChoice) -> Engine:
    return launch("llamacpp", model, SMALL, quiet=True)


def test_a_first_token_is_measured_and_counted(engine: Engine, model: ModelChoice) -> None:
    body = {"model": model.name, "messages": chat(model, "What is gravity?"), "max_tokens": 24, "temperature": 0}
    trace = asyncio.run(stream(engine.url + "/v1/chat/completions", {**body, **engine.spec.exact_length}))
    assert trace.error is None
    assert trace.output_tokens == 24
    assert trace.input_tokens == len(greedy_tokens(engine, chat(model, "What is gravity?"), 1)[0])
    assert trace.ttft_ms
    assert trace.tpot_ms
    assert 0 < trace.ttft_ms < trace.e2e_ms
    assert "ravity" in trace.text


def test_throughput_is_the_engines_own_count(engine: Engine, model: ModelChoice) -> None:
    before = generated(engine)
    run = load.run(Load(engine, prompts.short(model), Closed(users=4, requests=8), max_tokens=16, warmup=False))
    summary = metrics.summarise(run)
    assert (summary.requests, summary.failed, summary.cached_tokens) == (8, 0, 0)
    assert summary.output_tokens == 8 * 16 == generated(engine) - before
    assert summary.run.engine["flags"] == SMALL
    assert re.fullmatch("[0-9a-f]{64}", summary.run.engine["model_sha256"])


SHELL = {
    "LLAMA_ARG_CACHE_TYPE_K": "q4_0", "LLAMA_ARG_CTX_SIZE": "512", "LLAMA_API_KEY": "forgotten",
    "OLLAMA_KV_CACHE_TYPE": "q4_0", "OLLAMA_NUM_PARALLEL": "2", "OMP_NUM_THREADS": "1", "LABS_MARK": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "flags", "set_by_us"),
    [
        ("llamacpp", SMALL, {"LLAMA_ARG_OFFLINE": "1"}),
        (
            "ollama",
            {"OLLAMA_CONTEXT_LENGTH": 2048},
            {
                "OLLAMA_KEEP_ALIVE": "-1",
                "OLLAMA_NO_CLOUD": "1",
                "LLAMA_ARG_ENDPOINT_METRICS": "1",
                "LLAMA_ARG_CACHE_RAM": "512",
            },
        ),
    ],
)
def test_what_a_users_shell_sets_reaches_no_engine(
    name: str,
    flags: dict[str, object],
    set_by_us: dict[str, str],
    model: ModelChoice,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It would change what is measured, or make the engine answer 401, and no result would show why."""
    for variable, value in SHELL.items():
        monkeypatch.setenv(variable, value)
    with launch(name, model, flags) as engine:
        for pid in descendants(engine.process.pid):
            seen = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            assert "LABS_MARK=1" in seen  # what is no engine's is passed on
            assert not {f"{variable}={value}" for variable, value in SHELL.items()} & set(seen) - {"LABS_MARK=1"}
        recorded = engine.provenance()["environment"]
        assert set_by_us.items() <= recorded.items()
        assert str(engine.port) not in json.dumps(recorded)
        if name == "llamacpp":
            slots = json.loads(urllib.request.urlopen(engine.url + "/slots", timeout=30).read())
            assert {slot["n_ctx"] for slot in slots} == {8192 // 4}
    told = [line for line in capsys.readouterr().out.splitlines() if "not passed to" in line]
    assert len(told) == 1
    assert (
        f"These environment variables were not passed to {engine.spec.title}: LLAMA_API_KEY, LLAMA_ARG_CACHE_TYPE_K, "
        in told[0]
    )
    assert "LABS_MARK" not in told[0]


def test_gaps_between_busy_slots_cost_no_passes(model: ModelChoice) -> None:
    """With a KV cache for each slot, four slots with gaps between them take twice as long as four neighbours."""
    engine = launch("llamacpp", model, {"-np": 8, "-c": 8 * 512}, quiet=True)

    def ask(slot: int) -> None:
        body = {"prompt": f"Slot {slot} writes", "n_predict": 48, "ignore_eos": True, "cache_prompt": False}
        post_json(f"{engine.url}/completion", {**body, "id_slot": slot})

    def took_s(slots: tuple[int, ...]) -> float:
        began_s = time.monotonic()
        list(users.map(ask, slots))
        return time.monotonic() - began_s

    with ThreadPoolExecutor(4) as users:
        rounds = [(took_s((0, 2, 4, 6)), took_s((0, 1, 2, 3))) for _ in range(4)]
    assert min(gaps / neighbours for gaps, neighbours in rounds) < 1.4, rounds


def test_a_load_that_settles_the_engine_does_not_wait_for_the_prompts_of_the_one_before(model: ModelChoice) -> None:
    """llama.cpp stores the prompts of idle slots when the next request arrives."""
    engine = launch("llamacpp", model, {"-np": 6, "-c": 6 * 1024}, quiet=True)

    def first_to_second() -> float:
        load.run(Load(engine, prompts.long(model, 900), Closed(6, 6), max_tokens=1, warmup=False))
        settled = load.run(Load(engine, prompts.short(model), Closed(1, 2), max_tokens=1, warmup=False, settle=True))
        first, second = (trace.ttft_ms or 0 for trace in settled.traces)
        return first / second

    assert min(found := [first_to_second() for _ in range(2)]) < 1.5, found


def generated(engine: Engine) -> int:
    """Tokens generated so far, by the engine's Prometheus counter."""
    text = urllib.request.urlopen(engine.url + engine.spec.metrics, timeout=30).read().decode()
    found = re.search(r"^llamacpp:tokens_predicted_total (\d+)", text, re.M)
    assert found
    return int(found[1])


@pytest.mark.parametrize("precision", ["BF16", "Q4_0"])
def test_the_reference_tells_the_right_weights_from_wrong_ones(model: ModelChoice, precision: str) -> None:
    import torch

    from shared.models.llama import Llama, greedy_gap

    llama = Llama.load(model.weights("hf"), torch.float32)
    engine = launch("llamacpp", model, SMALL, precision=precision, quiet=True)
    gaps: list[float] = []
    for question in CHECK_QUESTIONS:
        prompt_ids, tokens = greedy_tokens(engine, chat(model, question), 48)
        assert prompt_ids == llama.prompt_ids(chat(model, question))
        gaps += greedy_gap(llama, chat(model, question), tokens)
    assert (gap_fault(gaps) is None) == (precision == "BF16"), max(gaps)


def test_the_same_launch_twice_is_one_engine_and_another_replaces_it(engine: Engine, model: ModelChoice) -> None:
    assert launch("llamacpp", model, SMALL, quiet=True) is engine
    other = launch("llamacpp", model, {"-np": 2, "-c": 4096}, quiet=True)
    assert other is not engine
    assert other.alive
    assert not engine.alive


def test_an_engine_that_was_left_paused_goes_on_when_it_is_launched_again(engine: Engine, model: ModelChoice) -> None:
    engine.pause()  # and Ctrl-C came before it was resumed
    assert launch("llamacpp", model, SMALL, quiet=True) is engine
    assert post_json(engine.url + "/tokenize", {"content": "a word"}, 30)["tokens"]


@pytest.mark.parametrize("when_needed", [False, True])
def test_an_engine_that_another_has_replaced_is_started_again_to_be_measured(
    model: ModelChoice, when_needed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later section starts the same engine with other flags, and then a cell of an earlier one is run again."""
    lab = labs.open("3.3.1")
    earlier = launch("llamacpp", model, SMALL, precision="Q8_0", cores=1, quiet=True, when_needed=when_needed)
    assert earlier.url
    later = launch("llamacpp", model, {"-np": 2, "-c": 4096}, quiet=True)
    assert (earlier.ended, later.ended) == (True, False)
    one = Load(earlier, prompts.short(model), Closed(1, 2), 4, warmup=False)
    found = lab.measure("load/one", one)
    assert found.failed == 0
    assert (earlier.ended, later.ended) == (False, True)
    source = lab.results()["load/one"]["provenance"]
    assert (source["flags"], source["precision"], source["cores"]) == (SMALL, "Q8_0", 1)
    assert "llama.cpp has ended, so it is started again with the same flags." in capsys.readouterr().out
    stop_all()
    assert lab.measure("load/one", one).values() == found.values()  # its result is there, so it isn't started
    assert earlier.ended
    assert lab.measure("load/two", lambda: {"gib": earlier.resident_gib()}, engine=earlier)["gib"] > 0.1


def test_an_engine_that_is_put_off_starts_with_its_first_use(model: ModelChoice) -> None:
    engine = launch("llamacpp", model, SMALL, quiet=True, when_needed=True)
    planned = engine.provenance()
    assert (engine.flags, engine.draft, engine.served_name) == (SMALL, None, model.name)
    assert repr(engine) == "<llama.cpp, not started yet>"
    assert not engine.alive
    engine.end()
    assert launcher._running == {}
    first = post_json(engine.url + "/tokenize", {"content": "a word"})["tokens"]
    assert first
    assert engine.alive
    assert {**engine.provenance(), "startup_s": planned["startup_s"]} == planned
    with alone(engine):  # it isn't paused
        assert post_json(engine.url + "/tokenize", {"content": "a word"})["tokens"] == first
    same = launch("llamacpp", model, SMALL, quiet=True)
    assert same.process is engine.process
    engine.end()
    assert not same.alive


def test_a_measurement_that_is_reused_starts_no_engine(model: ModelChoice, own_results: Path) -> None:
    lab, engines = labs.open("3.3.2"), []

    def measured() -> Summary:
        with launch("llamacpp", model, SMALL, quiet=True, when_needed=True) as engine:
            engines.append(engine)
            return lab.measure("load/one", Load(engine, prompts.short(model), Closed(1, 1), 4, warmup=False))

    found = measured()
    assert lab.results()["load/one"]["provenance"]["startup_s"] > 0
    logs = set((paths.state() / "logs").glob("engine-*.log"))
    assert measured().values() == found.values()
    assert set((paths.state() / "logs").glob("engine-*.log")) == logs
    assert [(engine.started, engine.alive) for engine in engines] == [(True, False), (False, False)]
    with pytest.raises(LabError, match="can't be given 4096 cores"):  # at once, not at its first use
        launch("llamacpp", model, SMALL, cores=4096, when_needed=True)


def test_memory_that_ended_engines_have_freed_counts(model: ModelChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many notebooks share engines, room is made for a new one by ending others."""
    here, ended = detect(), list[str]()
    monkeypatch.setattr("shared.launch.launcher.detect", lambda: replace(here, available_gib=20.0 if ended else 0.1))
    monkeypatch.setattr("shared.launch.reuse.take_over", lambda *_: ended.append("another engine"))
    with launch("llamacpp", model, SMALL, quiet=True) as engine:
        assert engine.alive


def test_leaving_the_block_frees_process_and_port(model: ModelChoice) -> None:
    with launch("llamacpp", model, SMALL, quiet=True) as engine:
        below = descendants(engine.process.pid)
        assert below
        assert port_taken(engine.port)
        record = json.loads((paths.state() / "run" / f"{engine.process.pid}.json").read_text())
        assert record["flags"] == SMALL, "`make gateway` takes its seats from them"
    assert not port_taken(engine.port)
    assert all(start_time(pid) is None for pid in below)


def test_down_ends_what_another_program_left(capsys: pytest.CaptureFixture[str]) -> None:
    student, pid, port = start_student("llamacpp", {"-np": 1, "-c": 8192})
    assert down(parent=student.pid) == 1
    assert f"ended llamacpp (process {pid}, port {port})" in capsys.readouterr().out
    assert start_time(pid) is None
    assert not port_taken(port)
    assert student.wait(60) == 0  # its stream ended with an error; it was not killed


def test_a_record_of_a_dead_engine_harms_no_later_process() -> None:
    """A record whose process id now belongs to someone else is dropped, and that process left alone."""
    bystander = subprocess.Popen(["sleep", "60"])
    file = paths.state() / "run" / f"{bystander.pid}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"pid": bystander.pid, "started": 1, "engine": "x", "port": 1, "parent": -7}))
    try:
        assert down(parent=-7) == 0
        assert bystander.poll() is None
        assert not file.exists()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_taken_port_is_said(model: ModelChoice) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LabError, match=rf"Port {port} .*taken.*\nFix: leave `port` out"):
            launch("llamacpp", model, SMALL, port=port, quiet=True)


def test_a_wrong_flag_shows_the_engines_own_words(model: ModelChoice) -> None:
    with pytest.raises(LabError) as error:
        launch("llamacpp", model, {"--max-num-seqs": 4}, quiet=True)
    assert "ended while starting" in str(error.value)
    assert "  | error: invalid argument: --max-num-seqs" in str(error.value)
    assert "1. llama.cpp doesn't know a flag → compare the flags with llama-server --help" in str(error.value)
    assert str(error.value).endswith("seen in its log: error: invalid argument: --max-num-seqs")


def test_a_setting_that_ollama_would_leave_aside_is_refused(model: ModelChoice) -> None:
    with pytest.raises(
        LabError, match=r"Ollama has no setting OLLAMA_NUM_PARALEL\.\nFix: correct this setting in the flags"
    ):
        launch("ollama", model, {"OLLAMA_NUM_PARALEL": 4}, quiet=True)


def test_waiting_is_shown_once_a_second_and_ends(
    model: ModelChoice, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = ENGINES["llamacpp"]
    assert spec.native
    mute = replace(spec, native=replace(spec.native, command=lambda start: ["sleep", "60"]))
    home = (paths.cache() / "engines" / "llamacpp").resolve()
    engine = start_native(mute, LaunchPlan(home, model, "BF16", free_port(), 1), Need("llama.cpp", 0, 0, 0, 0), machine)
    try:
        with pytest.raises(LabError, match=r"llama.cpp was not ready after 3 s. Last lines of .*\.log:"):
            wait_until_ready(engine, 3, quiet=False)
    finally:
        engine.stop()
    # More than a thousand messages in one cell, and nbval loses the last: 3 here, 300 for the longest wait.
    assert 3 <= capsys.readouterr().out.count("llama.cpp is starting") <= 5


def test_unknown_names_are_answered_with_the_known_ones(model: ModelChoice) -> None:
    with pytest.raises(
        LabError, match=r"no engine 'lama'.*\nFix: choose one of ollama, llamacpp, vllm, sglang, trtllm"
    ):
        launch("lama", model)
    with pytest.raises(LabError, match=r"can't load FP8.*\nFix: choose one of BF16, Q8_0, Q4_0"):
        launch("llamacpp", model, precision="FP8")


@pytest.mark.parametrize("cores", [0, -1, 4096])
def test_cores_that_the_machine_has_not_are_refused(model: ModelChoice, cores: int) -> None:
    with pytest.raises(LabError, match=f"can't be given {cores} cores.\nFix: choose 1 to"):
        launch("llamacpp", model, SMALL, cores=cores)


@pytest.mark.parametrize("port", [0, 80, 70_000])
def test_a_number_that_is_no_port_of_a_user_is_refused(model: ModelChoice, port: int) -> None:
    with pytest.raises(LabError, match=f"can't answer on port {port}.*\nFix: choose 1024 to 65535"):
        launch("llamacpp", model, SMALL, port=port)


def test_a_damaged_model_is_refused_before_the_engine_starts(model: ModelChoice, tmp_path: Path) -> None:
    copy = tmp_path / "gguf"
    shutil.copytree(model.gguf_folder, copy, ignore=shutil.ignore_patterns("*Q8_0*", "*Q4_0*"))
    file = copy / f"{model.name}-BF16.gguf"
    with file.open("r+b") as f:
        f.truncate(file.stat().st_size // 2)
    with pytest.raises(LabError, match=r"is damaged: it has \d+ bytes, but .*\nFix: rm -r .*make engines"):
        launch("llamacpp", replace(model, gguf_folder=copy), SMALL)


def test_an_engine_that_is_not_installed_is_said(
    model: ModelChoice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    with pytest.raises(LabError, match=r"llama.cpp is not installed in .*\nFix: make engines"):
        launch("llamacpp", model, SMALL)


def test_an_engine_that_is_being_installed_is_waited_for(
    model: ModelChoice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = paths.cache() / "engines" / "llamacpp"
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    paths.install_status().parent.mkdir()
    paths.install_status().write_text("[0:30] llama.cpp: compiling [7/205]")

    def install(whole: bool) -> None:
        with exclusive(paths.installing(), "never printed"):
            started.set()
            time.sleep(1)
            if whole:
                (tmp_path / "engines").mkdir()
                (tmp_path / "engines" / "llamacpp").symlink_to(installed)
                time.sleep(1)  # other engines are still being installed

    for whole in (False, True):
        started = threading.Event()
        setup = threading.Thread(target=install, args=[whole])
        setup.start()
        started.wait()
        if whole:
            assert launch("llamacpp", model, SMALL).alive
            assert "still being installed [0:30] llama.cpp: compiling [7/205]" in capsys.readouterr().out
        else:
            with pytest.raises(LabError, match=r"not installed in .*, and the set-up ended without installing it"):
                launch("llamacpp", model, SMALL)
        setup.join()


def test_ollama_waits_for_the_programs_and_weights_that_it_runs_on(
    model: ModelChoice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, made = paths.cache() / "engines", tmp_path / "engines"
    early = replace(model, gguf_folder=tmp_path / "gguf")  # as chosen while llama.cpp is still being compiled
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    made.mkdir()
    (made / "ollama").symlink_to(real / "ollama")  # Ollama itself is compiled sooner
    started = threading.Event()

    def install() -> None:
        with exclusive(paths.installing(), "never printed"):
            started.set()
            time.sleep(1)
            (made / "llamacpp").symlink_to(real / "llamacpp")
            time.sleep(1)
            early.gguf_folder.symlink_to(model.gguf_folder)  # by the programs just made
            time.sleep(2)

    setup = threading.Thread(target=install)
    setup.start()
    started.wait()
    assert launch("ollama", early, {"OLLAMA_CONTEXT_LENGTH": 1024}, quiet=True).alive
    setup.join()
    stop_all()
    (made / "llamacpp").unlink()
    with pytest.raises(
        LabError, match=r"llama.cpp is not installed in .*, and no set-up is running.\nFix: make engines"
    ):
        launch("ollama", early, {"OLLAMA_CONTEXT_LENGTH": 1024}, quiet=True)


def test_an_engine_that_dies_while_serving_is_said(engine: Engine, model: ModelChoice) -> None:
    os.kill(descendants(engine.process.pid)[0], signal.SIGKILL)
    with pytest.raises(LabError, match=r"llama.cpp ended during the load\. Its exit code is 137 \(SIGKILL\)\."):
        load.run(Load(engine, prompts.short(model), Closed(users=2, requests=4), max_tokens=64))
    assert launch("llamacpp", model, SMALL, quiet=True).alive  # the same cell run again starts a new one


def test_every_engine_is_given_the_same_cores(machine: Machine, engine: Engine) -> None:
    threads = engine.command[engine.command.index("--threads") + 1]
    assert int(threads) == engine.cores == machine.cores


def test_the_start_command_can_be_typed(engine: Engine) -> None:
    shown = engine.command_line()
    assert shown.startswith("LLAMA_ARG_OFFLINE=1 \\\n")
    port = free_port()
    typed = shown.replace(f"--port {engine.port}", f"--port {port}")
    with subprocess.Popen(["bash", "-c", f"exec env {typed}"], stderr=subprocess.DEVNULL) as by_hand:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not port_taken(port):
                time.sleep(0.1)
            assert port_taken(port)
            assert by_hand.poll() is None
        finally:
            by_hand.terminate()


@pytest.mark.parametrize(("name", "flags"), [("llamacpp", SMALL), ("ollama", {"OLLAMA_CONTEXT_LENGTH": 2048})])
def test_a_users_proxy_is_not_used_to_reach_an_engine(
    name: str, flags: dict[str, object], model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nothing:
        nothing.bind(("127.0.0.1", 0))  # taken, and not listening
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{nothing.getsockname()[1]}")
        client.cache_clear()
        with launch(name, model, flags, quiet=True) as engine:
            assert len(greedy_tokens(engine, chat(model, "Hi"), 2)[1]) == 2
            assert counters(engine)["generated_tokens"] > 0


def test_an_engines_refusal_is_quoted(engine: Engine) -> None:
    with pytest.raises(LabError, match=r"/v1/chat/completions answered 4\d\d: .*messages"):
        post_json(engine.url + "/v1/chat/completions", {"model": "x"})

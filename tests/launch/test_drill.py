"""Repeated faults at random moments (make drill). Whatever dies, measured results stay and no process is left."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from shared import hardware, load, metrics, models, paths, results
from shared.engines.http import greedy_tokens
from shared.errors import LabError
from shared.launch import launch
from shared.load import Closed, Load, prompts
from shared.load.prompts import CHECK_QUESTIONS, chat
from shared.metrics.correctness import gap_fault
from shared.models import ModelChoice
from shared.models.llama import Llama, greedy_gap
from shared.processes import descendants, start_time
from shared.results.ledger import folder_of
from tests.helpers.ledger import WRITER
from tests.helpers.processes import eventually, left_by_a_killed_program

pytestmark = pytest.mark.drill

# A short form of a lab's measuring cell, which continues where it stopped.
LAB = """
from shared import hardware, models
from shared.course import labs
from shared.launch import launch
from shared.load import Closed, Load, prompts
model = models.choose(hardware.detect())
engine = launch("llamacpp", model, {"-np": 2, "-c": 4096}, quiet=True)
print(engine.process.pid, flush=True)
lab = labs.open("3.3.1")
for number in range(12):
    one = Load(engine, prompts.short(model), Closed(users=1, requests=2), max_tokens=16)
    lab.measure(f"load/users-1/llamacpp/round-{number}", one)
print("done", flush=True)
"""


def test_a_writer_killed_a_hundred_times_leaves_a_whole_ledger_each_time(own_results: Path) -> None:
    for _ in range(100):
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE)
        assert writer.stdout
        writer.stdout.readline()
        time.sleep(random.uniform(0, 0.2))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        written = [file.name for file in folder_of("3.3.1").glob("*.json")]
        assert written
        assert len(results.load_results("3.3.1")) == len(written)  # none is torn
    assert not list(own_results.glob("*.torn-*"))


def test_a_kernel_killed_again_and_again_in_mid_load_gets_to_the_end(own_results: Path) -> None:
    kept = 0
    for _ in range(30):
        student = subprocess.Popen([sys.executable, "-c", LAB], stdout=subprocess.PIPE, text=True, cwd=paths.REPO)
        assert student.stdout
        engine = int(student.stdout.readline())
        time.sleep(random.uniform(1, 6))
        if finished := student.poll() is not None:
            assert "done" in student.stdout.read()
        student.kill()
        student.wait()
        assert eventually(lambda pid=engine: start_time(pid) is None, 10), "the engine outlived its notebook"  # type: ignore[misc]
        there = len(results.load_results("3.3.1"))
        assert there >= kept
        kept = there
        if finished:
            break
    assert kept == 12
    assert not list(own_results.glob("*.before-*")), "something was measured twice"


def test_an_engine_killed_in_mid_load_is_said_and_the_next_one_starts(own_results: Path) -> None:
    model = models.choose(hardware.detect())
    for number in range(10):
        engine = launch("llamacpp", model, {"-np": 4, "-c": 8192}, quiet=True)
        results.record("3.3.1", f"before-{number}", {"x": number})
        victims = descendants(engine.process.pid)
        killer = f"import os, time; time.sleep({random.uniform(0, 2)}); [os.kill(p, 9) for p in {victims}]"
        with subprocess.Popen([sys.executable, "-c", killer]), pytest.raises(LabError, match="ended during the load"):
            load.run(Load(engine, prompts.short(model), Closed(users=4, seconds=30), max_tokens=64))
        engine.stop()
        assert len(results.load_results("3.3.1")) == number + 1
    run = load.run(
        Load(launch("llamacpp", model, quiet=True), prompts.short(model), Closed(users=1, requests=1), max_tokens=8)
    )
    assert metrics.summarise(run).failed == 0
    assert os.environ["LABS_RESULTS"] == str(own_results)


@pytest.mark.parametrize("name", ["ollama", "llamacpp"] * 3)
def test_no_engine_outlives_its_program_however_often_it_is_killed(name: str) -> None:
    assert left_by_a_killed_program(name, {} if name == "ollama" else {"-np": 4, "-c": 4096}) == []


def test_vllm_on_three_ranks_computes_the_same(model: ModelChoice) -> None:
    llama = Llama.load(model.weights("hf"), torch.float32)
    flags = {"--tensor-parallel-size": 3, "--max-model-len": 1024, "--enforce-eager": True}
    engine = launch("vllm", model, flags, quiet=True)  # three: the model's 9 heads and 3 KV heads divide by it
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in descendants(engine.process.pid)]
    assert sum(name.startswith("VLLM::Worker") for name in names) == 3
    gaps: list[float] = []
    for question in CHECK_QUESTIONS[:4]:
        prompt_ids, tokens = greedy_tokens(engine, chat(model, question), 24)
        assert prompt_ids == llama.prompt_ids(chat(model, question))
        gaps += greedy_gap(llama, chat(model, question), tokens)
    assert gap_fault(gaps) is None

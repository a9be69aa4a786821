"""A launch that doesn't fit is refused with its sum. An engine that grows too big is ended before the machine freezes.

Memory readings are scripted, in a file that the guard reads instead of /proc/meminfo. A process with children of its
own stands in for the engine.
"""

import itertools
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from shared import LabError
from shared.engines import ENGINES, LaunchPlan
from shared.engines.spec import Native
from shared.hardware import Machine
from shared.launch import memory
from shared.launch.memory import Need, floors_gib, guard, need, require, share, story
from shared.launch.process import Guarded
from shared.launch.watchdog import GUARD_EXIT
from shared.models import ModelChoice
from tests.helpers.fake_spark import FLAGS, reading
from tests.helpers.processes import alive, eventually, read_pid


@pytest.fixture
def meminfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "meminfo"
    reading(file, 100)
    monkeypatch.setattr(memory, "MEMINFO", file)
    return file


def guarded(machine: Machine, tmp_path: Path, script: str = "sleep 60") -> Guarded:
    with (tmp_path / "log").open("wb") as log:
        return Guarded(["sh", "-c", script], log, guard=guard(machine, tmp_path / "samples"))


def sampled(tmp_path: Path, what: str, times: int = 1) -> bool:
    """Whether the guard comes to take such a sample, so many times. It takes one a second."""
    samples = tmp_path / "samples"
    return eventually(lambda: samples.exists() and samples.read_text().count(what) >= times, 30)


def test_an_engine_below_the_floor_is_ended_with_all_its_children(
    meminfo: Path, tmp_path: Path, spark: Machine
) -> None:
    process = guarded(
        spark, tmp_path, f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep 60 & echo $! > {tmp_path}/child; wait"
    )
    pids = [read_pid(tmp_path / "pid"), read_pid(tmp_path / "child")]
    for gib in (60.0, 31.5, 16.4):  # as weights are loaded: above the floor of 16
        reading(meminfo, gib)
        assert sampled(tmp_path, f"{gib:.2f} GiB available, floor 16.00\n")
        assert process.exit_code() is None
    reading(meminfo, 15.9)
    assert eventually(lambda: process.exit_code() is not None)
    assert process.exit_code() == GUARD_EXIT
    assert not any(alive(pid) for pid in pids)  # without waiting for one that ignores SIGTERM
    process.end()
    samples = (tmp_path / "samples").read_text().splitlines()
    assert samples[-1].endswith("15.90 GiB available, floor 16.00")
    assert sum("15.90" in sample for sample in samples) == 1, "the first sample below the floor is enough"
    told = story(tmp_path / "samples", Need("vLLM", 15.0, 4.0, 6.7, 20.0))
    assert (
        "vLLM needs 15.0 GiB for weights + 4.0 for the KV cache + 6.7 for the engine itself + 20.0 in reserve "
        "= 45.7 GiB" in told
    )
    assert "31.50 GiB available" in told
    assert (
        "Fix: lower the number of sequences or the context length in the flags of launch(), choose a smaller model"
        in told
    )
    assert "make down" in told
    assert "export LABS_MEMORY_FLOORS_GIB=" in told


def test_once_ready_the_lower_floor_holds(meminfo: Path, tmp_path: Path, spark: Machine) -> None:
    process = guarded(spark, tmp_path)
    assert sampled(tmp_path, "floor 16.00\n")
    process.ready()
    assert sampled(tmp_path, "floor 8.00\n")
    reading(meminfo, 9)
    assert sampled(tmp_path, "9.00 GiB available, floor 8.00\n", times=2)
    assert process.exit_code() is None
    reading(meminfo, 7.5)
    assert eventually(lambda: process.exit_code() == GUARD_EXIT)
    process.end()


@pytest.mark.alone  # it compares times
def test_a_sample_a_second_whatever_the_owner_does(meminfo: Path, tmp_path: Path, spark: Machine) -> None:
    process = guarded(spark, tmp_path)
    stop = time.monotonic() + 4.5
    busy = threading.Thread(target=lambda: sum(i for i in iter(lambda: int(time.monotonic() < stop), 0)))
    busy.start()
    busy.join()
    process.end()
    assert process.exit_code() == 143
    times = [float(line.split()[0]) for line in (tmp_path / "samples").read_text().splitlines()]
    # Each sample is forced to the disk, and the next one may wait for that.
    assert 3 <= len(times) <= 6
    assert times[0] < 0.5
    assert all(0.9 < later - earlier < 2.5 for earlier, later in itertools.pairwise(times))


def test_floors_fit_the_machine(monkeypatch: pytest.MonkeyPatch, machine: Machine, spark: Machine) -> None:
    assert floors_gib(spark) == (16, 8)
    assert floors_gib(replace(machine, memory_gib=24)) == (0.72, 0.36)
    assert floors_gib(replace(machine, memory_gib=512)) == (1, 0.5)
    monkeypatch.setenv("LABS_MEMORY_FLOORS_GIB", "12,6.5")
    assert floors_gib(spark) == (12, 6.5)
    monkeypatch.setenv("LABS_MEMORY_FLOORS_GIB", "a lot")
    with pytest.raises(LabError, match=r"LABS_MEMORY_FLOORS_GIB is 'a lot', but must be two numbers\.\nFix: export "):
        floors_gib(spark)


@pytest.mark.parametrize(("dtype", "weights"), [("bfloat16", "0.3"), ("float32", "0.5")])
def test_a_native_launch_that_does_not_fit_is_refused_with_its_sum(
    monkeypatch: pytest.MonkeyPatch, model: ModelChoice, machine: Machine, dtype: str, weights: str
) -> None:
    monkeypatch.setattr("shared.engines.spec.torch_dtype", lambda: dtype)
    small = replace(machine, available_gib=3.0)
    vllm = ENGINES["vllm"]
    with pytest.raises(
        LabError, match=rf"{weights} GiB for weights \+ 1\.0 for the KV cache \+ .* = \d\.\d GiB, but only 3\.0 "
    ):
        require(vllm, need(vllm, model, "BF16", {}, small), {}, small, ())
    llamacpp = ENGINES["llamacpp"]
    require(llamacpp, need(llamacpp, model, "BF16", {"-c": 8192}, small), {}, small, ())
    with pytest.raises(LabError, match=r"llama\.cpp needs .* for the KV cache"):
        require(llamacpp, need(llamacpp, model, "BF16", {"-c": 200_000}, small), {}, small, ())


@pytest.mark.parametrize("name", FLAGS)
def test_no_container_chooses_its_kv_cache_itself(name: str, spark: Machine, spark_model: ModelChoice) -> None:
    spec = ENGINES[name]
    needed = need(spec, spark_model, "BF16", FLAGS[name], spark)
    assert needed.kv == pytest.approx(32768 * spark_model.kv_bytes_per_token() / 2**30)
    require(spec, needed, FLAGS[name], spark, ())
    free = {"OLLAMA_CONTEXT_LENGTH": 0} if name == "ollama" else {}  # unset, the labs set Ollama's
    given = re.escape(str(free or "none"))
    with pytest.raises(
        LabError,
        match=rf"{spec.title} takes most of .* KV cache .* are {given}\.\nFix: limit .*{spec.container.bound_by}",
    ):
        need(spec, spark_model, "BF16", free, spark)


def test_ollama_has_the_context_that_it_has_on_a_processor(spark: Machine, spark_model: ModelChoice) -> None:
    """Lab 3.3.6 names none. Its own default on a Spark is the longest that the model has."""
    flags, spec = {"OLLAMA_NUM_PARALLEL": 4}, ENGINES["ollama"]
    tokens = need(spec, spark_model, "BF16", flags, spark).kv * 2**30 / spark_model.kv_bytes_per_token()
    assert tokens == pytest.approx(4 * 4096)
    start = LaunchPlan(Path(), spark_model, "BF16", 11434, 20, flags)
    assert spec.container.env(start)["OLLAMA_CONTEXT_LENGTH"] == "4096"
    named = replace(start, flags={"OLLAMA_CONTEXT_LENGTH": 8192})
    assert "OLLAMA_CONTEXT_LENGTH" not in spec.container.env(named)


@pytest.mark.parametrize("runner", ["native", "container"])
@pytest.mark.parametrize("name", ["llamacpp", "ollama"])
def test_the_prompts_that_an_engine_stores_are_limited_and_counted(
    name: str, runner: str, spark_model: ModelChoice
) -> None:
    """llama.cpp's own limit is 8 GiB."""
    way, start = ENGINES[name].way(runner), LaunchPlan(Path(), spark_model, "BF16", 4711, 20, {"-c": 4096})
    if name == "ollama":
        limit_mib = int(way.env(start)["LLAMA_ARG_CACHE_RAM"])
    else:
        line = way.command(start) if isinstance(way, Native) else way.arguments(start)
        limit_mib = int(line[line.index("--cache-ram") + 1])
    assert 0 < limit_mib / 1024 < way.overhead_gib


def test_a_second_engine_that_does_not_fit_on_a_spark_is_refused(spark: Machine, spark_model: ModelChoice) -> None:
    spec, crowded = ENGINES["vllm"], replace(spark, available_gib=40)
    needed = need(spec, spark_model, "BF16", FLAGS["vllm"], crowded)
    with pytest.raises(LabError, match=r"\+ 20\.0 in reserve = 4\d\.\d GiB, but only 40\.0 GiB are available"):
        require(spec, needed, FLAGS["vllm"], crowded, ())


def test_a_share_above_what_is_available_is_refused(spark: Machine, spark_model: ModelChoice) -> None:
    spec, flags = ENGINES["vllm"], {**FLAGS["vllm"], "--gpu-memory-utilization": 0.92}
    busy = replace(spark, available_gib=100)
    needed = need(spec, spark_model, "BF16", flags, busy)
    with pytest.raises(
        LabError, match=r"--gpu-memory-utilization 0\.92 asks for .* but only 100\.0 GiB are available.\nFix: leave"
    ):
        require(spec, needed, flags, busy, ())


def test_the_share_that_the_labs_set_covers_the_sum_and_passes_the_engines_check(
    spark: Machine, spark_model: ModelChoice
) -> None:
    needed = need(ENGINES["vllm"], spark_model, "BF16", FLAGS["vllm"], spark)
    part = share(needed, spark)
    assert needed.weights + needed.kv + needed.own <= part * spark.memory_gib < spark.available_gib
    assert part < 0.3


def test_another_program_on_the_gpu_is_named(
    monkeypatch: pytest.MonkeyPatch, spark: Machine, spark_model: ModelChoice
) -> None:
    spec = ENGINES["sglang"]
    needed = need(spec, spark_model, "BF16", FLAGS["sglang"], spark)
    monkeypatch.setattr(memory, "gpu_holders", lambda: {4711: "ollama runner (process 4711, memory unknown)"})
    with pytest.raises(LabError, match=r"Another program holds the GPU: ollama runner \(process 4711"):
        require(spec, needed, FLAGS["sglang"], spark, ())
    require(spec, needed, FLAGS["sglang"], spark, {4711})  # our own


def test_a_discrete_gpu_is_judged_by_its_own_memory(spark: Machine, spark_model: ModelChoice) -> None:
    spec = ENGINES["vllm"]
    laptop = replace(spark, profile="cuda", unified_memory=False, gpu_memory_gib=16.0)
    needed = need(spec, spark_model, "BF16", FLAGS["vllm"], laptop)
    with pytest.raises(LabError, match=r"but the GPU has only 16\.0 GiB"):
        require(spec, needed, FLAGS["vllm"], laptop, ())


def test_a_flag_that_is_no_number_is_said(spark: Machine, spark_model: ModelChoice) -> None:
    with pytest.raises(LabError, match=r"--max-num-seqs is 'many', but must be a whole number from 1 .*\nFix: give a "):
        need(ENGINES["vllm"], spark_model, "BF16", {**FLAGS["vllm"], "--max-num-seqs": "many"}, spark)


def test_samples_that_cant_be_written_end_no_engine(meminfo: Path, tmp_path: Path, spark: Machine) -> None:
    """On a full disk the guard goes on all the same."""
    (tmp_path / "samples").symlink_to("/dev/full")
    process = guarded(spark, tmp_path)
    time.sleep(2.5)
    assert process.exit_code() is None, (tmp_path / "log").read_text()
    reading(meminfo, 15.9)
    assert eventually(lambda: process.exit_code() == GUARD_EXIT)
    process.end()

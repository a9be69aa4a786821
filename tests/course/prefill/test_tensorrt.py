"""Flows of TensorRT-LLM and TensorRT Edge-LLM: every command as published; each wrong one with its exact reason."""

import json
import re
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared import paths
from shared.course import checks, registry
from shared.course.prefill.tensorrt import (
    bench_report,
    command_check,
    config_check,
    detached_build,
    edge_llm,
    engine_folder,
    flows,
    on_this_machine,
    preflight,
)
from shared.course.prefill.tensorrt.command_check import explain
from shared.course.prefill.tensorrt.config_check import explain as explain_yaml
from shared.course.prefill.tensorrt.detached_build import Job, Task
from shared.course.prefill.tensorrt.flows import Sizes
from shared.engines.published_flags import published, unknown
from shared.errors import LabError
from shared.hardware import Machine
from shared.launch import containers
from shared.models import ModelChoice, catalogue
from shared.models import choice as models
from tests.helpers.standin_docker import Docker

OUTLINE = (
    "python -m tensorrt_llm.commands.build --model_dir ./model --output_dir ./trt_engine --dtype bfloat16 "
    "--use_fused_mlp"
)
SIZES = [Sizes(), Sizes(1, 512, 1), Sizes(64, 8192, 256)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    "flow",
    [
        flows.serving_flow,
        flows.engine_flow,
        partial(flows.engine_flow, precision="FP8"),
        partial(flows.engine_flow, precision="NVFP4"),
        edge_llm.flow,
    ],
)
def test_every_flow_is_published_and_explained(flow: object, sizes: Sizes, spark_model: ModelChoice) -> None:
    for step in flow(spark_model, sizes):  # type: ignore[operator]
        assert explain(step.command, "1.3.0rc13") == []
        of_the_program = {"--model", "--model_path", "--output"}
        explained = {word for word in step.command if word.startswith("--")} - of_the_program
        assert explained == {name for name in step.why if name.startswith("--")}
        assert all(len(why) > 4 for why in step.why.values())
        for text in step.files.values():
            assert explain_yaml(text) == []


def test_the_engine_holds_what_the_sizes_ask_for(spark_model: ModelChoice) -> None:
    build = str(flows.engine_flow(spark_model, Sizes(4, 3000, 100))[1])
    assert "--max_batch_size 4 --max_input_len 3000 --max_seq_len 3100 --max_num_tokens 3008" in build
    config = flows.serving_config(spark_model, Sizes(4, 3000, 100))
    assert config["kv_cache_config"]["max_tokens"] == 4 * 3100
    assert config["cuda_graph_config"] == {"enable_padding": True, "max_batch_size": 4}


def test_the_engine_flow_measures_the_engine_that_it_built(spark_model: ModelChoice) -> None:
    steps = {one.title: one for one in flows.engine_flow(spark_model, Sizes(4, 3000, 100))}
    assert list(steps)[:3] == ["convert the checkpoint", "build the engine", "prompts for the benchmark"]
    for title, report in (("throughput", "throughput.json"), ("latency of one user", "latency.json")):
        line = str(steps[title])
        assert f"--engine_dir {flows.WORK}/engine --backend tensorrt --kv_cache_free_gpu_mem_fraction 0.3" in line
        assert "--max_seq_len" not in line  # trtllm-bench refuses it for an engine
        assert steps[title].leaves == (report,)
    assert f"{flows.WORK}/engine" in str(steps["build the engine"])


def test_what_is_for_engines_is_right_up_to_the_last_version_with_them() -> None:
    line = "trtllm-bench --model m throughput --engine_dir e --backend tensorrt"
    assert explain(line) == explain(line, "1.2.1") == []
    reason = "it is for TensorRT engines, and 1.3.0rc20 is the last version with them"
    assert explain(line, "1.3.0rc26") == [
        f"trtllm-bench throughput has no --engine_dir any more: {reason}",
        f"--backend takes no 'tensorrt', but one of pytorch, _autodeploy: {reason}",
    ]
    assert explain("trtllm-bench --model m latency --backend trt") == [
        "--backend takes no 'trt', but one of pytorch, _autodeploy"
    ]


def test_the_servers_file_is_shown_once_beside_the_command_that_reads_it(spark_model: ModelChoice) -> None:
    text = flows.shown(flows.serving_flow(spark_model, Sizes()))
    assert text.count('"free_gpu_memory_fraction": 0.3') == text.count('"cuda_graph_config"') == 1
    assert text.index("trtllm-serve ") < text.index('"cuda_graph_config"') < text.index("trtllm-bench ")
    assert text.count("\n# ") == 4  # three more commands, and the file
    assert "config.yml" not in flows.shown(flows.engine_flow(spark_model, Sizes()))


def test_the_notebook_and_the_outline_say_how_the_engine_flow_is_attested() -> None:
    cells = checks.notebook(registry.find_lab("3.3.3"))["cells"]
    text = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    found = re.search(r"https://[^\s)]+", flows.REPORT)
    assert found
    assert "no document of NVIDIA that shows the engine flow at work on a Spark's GPU" in text
    assert "`sm_121`" in text
    [quoted] = [sentence for sentence in text.split(". ") if "46 ms" in sentence]
    assert "31 ms" in quoted
    assert found[0] in quoted
    outline = (paths.REPO / "environment" / "OUTLINE.md").read_text()
    assert found[0] in outline
    assert "the fallback for building an engine" in outline
    assert "fallback for the engine flow" in preflight.listed("triton-trtllm")["note"].replace("\n", " ")


def test_a_precision_that_the_flow_can_not_convert_is_refused(spark_model: ModelChoice) -> None:
    with pytest.raises(LabError, match="can't convert INT3"):
        flows.engine_flow(spark_model, Sizes(), "INT3")


def test_a_gpu_gets_the_smallest_format_that_it_multiplies(spark: Machine, spark_model: ModelChoice) -> None:
    assert flows.serving_precision(spark, spark_model) == "NVFP4"
    for capability, wanted in (("8.9", "FP8"), ("8.6", "BF16"), ("12.0", "NVFP4")):
        gpu = replace(spark, compute_capability=capability)
        assert flows.serving_precision(gpu, spark_model) == wanted
    only = replace(spark_model, sources={"hf BF16": spark_model.sources["hf BF16"]})
    assert flows.serving_precision(spark, only) == "BF16"


def test_the_converter_is_that_of_the_models_family(spark_model: ModelChoice) -> None:
    assert "core/llama/convert_checkpoint.py" in str(flows.engine_flow(spark_model, Sizes())[0])
    small = models.from_catalogue_entry(catalogue.entry(catalogue.QWEN_1B), "3.3.3", token=False)
    assert "core/qwen/convert_checkpoint.py" in str(flows.engine_flow(small, Sizes())[0])
    assert explain(flows.engine_flow(small, Sizes())[0].command) == []
    with pytest.raises(LabError, match="Qwen's converter has no --use_fp8"):
        flows.engine_flow(small, Sizes(), "FP8")


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(LabError, match="below 1"):
        Sizes(users=0)


def test_the_outlines_command_is_wrong_in_three_ways() -> None:
    assert explain(OUTLINE) == [
        "python -m tensorrt_llm.commands.build has no --model_dir: it is a flag of python convert_checkpoint.py",
        "python -m tensorrt_llm.commands.build has no --dtype: it is a flag of python convert_checkpoint.py",
        "--use_fused_mlp: its value is missing",
    ]
    [removed] = set(explain(OUTLINE, "1.3.0rc26")) - set(explain(OUTLINE))
    assert "1.3.0rc20 is the last version with it" in removed
    assert published("trtllm")["verify"]["command"] == OUTLINE


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("trtllm-build --checkpoint_dir c --gemm_plugin nvfp5", "--gemm_plugin takes no 'nvfp5', but one of auto"),
        ("trtllm-build --checkpoint_dir c --max_batchsize 8", "has no --max_batchsize: did you mean --max_batch_size?"),
        (
            "trtllm-build --checkpoint_dir c --max_batch_size eight",
            "--max_batch_size takes no 'eight', but a whole number",
        ),
        ("trtllm-serve --model m", "trtllm-serve has no --model: write the model as a word, without a flag"),
        ("trtllm-serve --port 8000", "trtllm-serve needs the word MODEL"),
        ("trtllm-serve m --max-batch-size 8", "has no --max-batch-size: did you mean --max_batch_size?"),
        ("trtllm-serve m --enable_chunked_context", "trtllm-bench throughput; did you mean --enable_chunked_prefill?"),
        ("trtllm-serve m --free_gpu_memory_fraction 90%", "takes no '90%', but a number"),
        ("trtllm-bench --model m", "trtllm-bench needs a subcommand: throughput, latency"),
        ("trtllm-bench --model m speed", "trtllm-bench takes no 'speed': its subcommands are throughput, latency"),
        ("trtllm-bench throughput --model m", "it is a flag of trtllm-bench, so it stands before throughput"),
        ("tensorrt-edgellm-export checkpoint", "tensorrt-edgellm-export needs the word OUTPUT"),
        (
            "trtllm-serve m --dtype bfloat16",
            "trtllm-serve has no --dtype: it is a flag of python convert_checkpoint.py",
        ),
        ("trtllm-serve m --backend tensorrt", "--backend takes no 'tensorrt', but one of"),
        ("trtllm-bench throughput --dataset d", "trtllm-bench throughput needs --model"),
        ("llm_build --onnxDir o", "llm_build needs --engineDir"),
        ("llm_build --onnxDir o --engineDir e --max_input_len 5", "llm_build has no --max_input_len"),
    ],
)
def test_a_wrong_command_gets_its_reason(line: str, reason: str) -> None:
    assert any(reason in one for one in explain(line)), explain(line)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("make engine", "begins with one of: llm_build, "),
        ("trtllm_serve m", "did you mean trtllm-serve"),
        ("docker run image trtllm-serve m", "check the part from trtllm-serve on"),
        ("trtllm-serve 'm", "split"),
    ],
)
def test_what_is_no_command_is_refused(line: str, found: str) -> None:
    with pytest.raises(LabError, match=found):
        explain(line)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"free_gpu_memory_fraction": 0.3}, "no key free_gpu_memory_fraction: it belongs under kv_cache_config"),
        ({"kv_cache_dtype": "fp8"}, "no key kv_cache_dtype: use kv_cache_config.dtype"),
        ({"kv_cache_config": {"free_gpu_memory_fractoin": 0.3}}, "did you mean free_gpu_memory_fraction?"),
        ({"cuda_graph_config": {"max_seq_len": 9}}, "versions after 1.3.0rc3 have it"),
        ({"speculative_config": {"decoding_type": "Eagle9"}}, "no decoding_type Eagle9"),
        ({"speculative_config": {"decoding_type": "Eagle3", "max_draft": 3}}, "did you mean max_draft_len?"),
        ({"use_cuda_graph": True}, "no key use_cuda_graph: CUDA graphs are set under cuda_graph_config"),
        ({"kv_cache_config": 0.3}, "kv_cache_config holds 0.3, but needs keys of its own"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 90}}, "takes no 90, but a number from 0 to 1"),
    ],
)
def test_a_wrong_key_gets_its_reason(keys: dict[str, object], reason: str) -> None:
    assert any(reason in one for one in explain_yaml(json.dumps(keys))), explain_yaml(keys)


@pytest.mark.parametrize("text", ["kv_cache_config: {", "- 1", "free"])
def test_what_is_no_file_of_keys_is_refused(text: str) -> None:
    with pytest.raises(LabError, match=r"no YAML in line 1|no keys with values"):
        explain_yaml(text)


def test_what_is_found_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    command_check.show_faults("trtllm-serve")
    command_check.show_faults("trtllm_serve m")
    command_check.show_faults("trtllm-serve m")
    config_check.show_faults("kv_cache_config:\n  free_gpu_memory_fraction: 0.3")
    config_check.show_faults("[")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "✘ trtllm-serve needs the word MODEL"
    assert printed[2].startswith("Fix: did you mean")
    assert printed[3:5] == ["✔ every flag and value of it is published", "✔ every key of it is published"]
    assert printed[5].startswith("✘ The file is no YAML")


@pytest.mark.parametrize(("version", "has"), [("1.2.1", True), ("1.3.0rc20", True), ("1.3.0rc21", False)])
def test_which_versions_have_the_builder(version: str, has: bool) -> None:
    assert command_check.has_builder(version) is has


def test_a_version_that_is_none_is_refused() -> None:
    with pytest.raises(LabError, match="not a version"):
        command_check.has_builder("newest")


REPORT = {
    "engine": {"version": "1.3.0rc13", "backend": "Pytorch"},
    "request_info": {
        "num_requests": 64,
        "avg_num_concurrent_requests": 7.5,
        "avg_input_length": 2048.0,
        "avg_output_length": 128.0,
    },
    "performance": {
        "system_output_throughput_tok_s": 200.5,
        "system_total_throughput_tok_s": 3400.0,
        "avg_request_latency_ms": 5100.0,
        "total_latency_ms": 41000.0,
    },
}


def test_a_benchmarks_report_is_read(tmp_path: Path) -> None:
    file = tmp_path / "throughput.json"
    file.write_text(json.dumps(REPORT))
    found = bench_report.read(file)
    assert (found["requests"], found["output_tok_s"], found["engine_version"]) == (64, 200.5, "1.3.0rc13")
    assert "ttft_ms" not in found
    file.write_text(json.dumps(REPORT | {"streaming_metrics": {"avg_ttft_ms": 199.0, "avg_tpot_ms": 38.0}}))
    assert bench_report.read(file)["ttft_ms"] == 199.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "no report"),
        ("[]", "no number request_info.num_requests"),
        (json.dumps(REPORT | {"performance": {}}), "no number performance.system_output_throughput_tok_s"),
        (json.dumps(REPORT | {"streaming_metrics": {"avg_ttft_ms": "fast"}}), "streaming_metrics.avg_ttft_ms; it is"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(LabError, match=found):
        bench_report.read(tmp_path / "r.json")


def finish(job: Job) -> str:
    deadline = time.monotonic() + 60
    while job.alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job.progress().state


def task(title: str, script: str, *leaves: str) -> Task:
    return Task(title, ("sh", "-c", script), leaves)


def test_a_build_runs_detached_and_is_not_repeated(tmp_path: Path) -> None:
    tasks = [
        task("convert", "echo x >> ran-convert; mkdir -p ckpt; touch ckpt/config.json", "ckpt/config.json"),
        task("build", "echo x >> ran-build; echo 'Engine serialized'; touch rank0.engine", "rank0.engine"),
    ]
    assert Job(tmp_path / "job").progress().state == "not started"
    job = detached_build.start(tasks, tmp_path / "job")
    assert finish(job) == "finished"
    found = job.progress()
    assert (found.done, found.running, found.last_line) == (2, "", "Engine serialized")
    assert finish(detached_build.start(tasks, job.folder)) == "finished"
    assert (job.folder / "ran-build").read_text() == "x\n"


def test_an_interrupted_build_goes_on_after_its_last_finished_step(tmp_path: Path) -> None:
    slow = "echo x >> ran-build; echo 'Build TensorRT engine'; echo half > rank0.engine; test -e go || sleep 100; true"
    tasks = [task("convert", "echo x >> ran-convert; touch ckpt", "ckpt"), task("build", slow, "rank0.engine")]
    job = detached_build.start(tasks, tmp_path)
    while "Build TensorRT" not in job.log():
        time.sleep(0.02)
    assert job.progress().state == "running"
    assert (job.progress().running, job.progress().share) == ("build", 0.2)
    pid = job.state()["pid"]
    assert detached_build.start(tasks, tmp_path).state()["pid"] == pid  # the cell was interrupted and is run again
    with pytest.raises(LabError, match="runs already"):
        detached_build.start([*tasks, task("more", "true")], tmp_path)
    job.end()
    assert job.progress().state == "interrupted"  # at once
    assert job.progress().done == 1
    (tmp_path / "go").touch()
    assert finish(detached_build.start(tasks, tmp_path)) == "finished"
    assert (tmp_path / "ran-convert").read_text() == "x\n"
    assert (tmp_path / "ran-build").read_text() == "x\nx\n"


def test_a_step_that_fails_or_leaves_nothing_is_not_finished(tmp_path: Path) -> None:
    job = detached_build.start([task("build", "echo out of memory; exit 3", "e"), task("run", "touch r")], tmp_path)
    assert finish(job) == "failed"
    assert (job.progress().done, job.progress().running, (tmp_path / "r").exists()) == (0, "build", False)
    job = detached_build.start([task("build", "true", "rank0.engine")], tmp_path)
    assert finish(job) == "failed"
    assert "rank0.engine is missing" in job.progress().last_line
    job = detached_build.start([Task("build", ("no-such-program",))], tmp_path)
    assert finish(job) == "failed"
    assert "no-such-program: No such file" in job.progress().last_line


def test_another_command_is_another_step(tmp_path: Path) -> None:
    assert finish(detached_build.start([task("build", "echo 1 > e", "e")], tmp_path)) == "finished"
    assert finish(detached_build.start([task("build", "echo 2 > e", "e")], tmp_path)) == "finished"
    assert (tmp_path / "e").read_text() == "2\n"


def test_a_step_in_a_container_can_be_ended(spark_model: ModelChoice, tmp_path: Path) -> None:
    one = flows.engine_flow(spark_model, Sizes())[1]
    made = flows.in_container(one, "image:tag", tmp_path / "work", tmp_path / "hub", ("--gpus", "all"))
    assert unknown("docker", made.command[: made.command.index("image:tag") + 1]) == []
    assert made.command[made.command.index("image:tag") + 1 :] == one.command
    assert made.end == ("docker", "kill", made.command[made.command.index("--name") + 1])
    assert "PYTHONUNBUFFERED=1" in made.command  # the log doesn't lag behind


def test_following_a_build_prints_its_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = "timeout 60 sh -c 'until test -e seen; do sleep 0.1; done'"
    script = f"echo ': convert 1.0 s'; {seen}; echo done"
    job = detached_build.start([task("build", script)], tmp_path)
    printed, sleep = "", time.sleep

    def between_two_looks(seconds: float) -> None:
        nonlocal printed
        printed += capsys.readouterr().out
        if "50% by its log" in printed:
            (tmp_path / "seen").touch()
        sleep(seconds)

    monkeypatch.setattr("time.sleep", between_two_looks)
    assert job.follow(0.02).state == "finished"
    printed += capsys.readouterr().out
    assert "now: build (50% by its log)" in printed
    assert "finished: 1 of 1 steps" in printed.splitlines()[-1]


def test_without_a_gpu_nothing_is_started_and_the_reasons_are_printed(
    spark: Machine, spark_model: ModelChoice, capsys: pytest.CaptureFixture[str]
) -> None:
    none = replace(spark, gpu=None)
    assert on_this_machine.build(none, spark_model, Sizes()) is None
    printed = capsys.readouterr().out
    assert "not started (not verified on hardware)" in printed
    assert "GPU: none" in printed
    assert on_this_machine.benchmark(none, spark_model, Sizes()) is None
    assert on_this_machine.serve(none, spark_model, Sizes()) is None
    printed = capsys.readouterr().out
    assert "trtllm-bench: not started" in printed
    assert "trtllm-serve: not started" in printed
    assert not on_this_machine.folder().joinpath(spark_model.name).exists()
    old = preflight.container(none, "triton-trtllm")
    assert not old.ok
    assert "25.11-trtllm-python-py3: platforms unknown" in old.found


def test_on_a_spark_the_flows_start_in_their_container(
    on_a_spark: Docker, spark: Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_spark.says(inside=["sh", "-c", "echo {arguments}"])
    monkeypatch.setattr(on_this_machine, "docker_gpu_arguments", lambda: ("--gpus", "all"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500 * 2**30))
    job = on_this_machine.build(spark, spark_model, Sizes())
    assert job
    assert finish(job) == "failed"  # nothing was built: the step left no checkpoint
    assert "checkpoint/config.json" in job.progress().last_line
    [run] = [line for line in on_a_spark.asked() if line[0] == "run"]
    assert "--model_dir" in run
    assert run[run.index("--model_dir") + 1].startswith("/root/.cache/huggingface/hub/")
    bench = on_this_machine.benchmark(spark, spark_model, Sizes())
    assert bench
    assert finish(bench) == "failed"
    assert json.loads((bench.folder / "config.yml").read_text())["kv_cache_config"]
    (bench.folder / "latency.json").write_text(json.dumps(REPORT))
    assert on_this_machine.reports(bench)["latency"]["requests"] == 64


def test_on_a_spark_the_server_is_launched_with_the_sizes_of_the_flow(
    on_a_spark: Docker, spark: Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500 * 2**30))
    sizes = Sizes(4, 1000, 50)
    server = on_this_machine.serve(spark, spark_model, sizes)
    assert server
    assert (server.spec.name, server.precision) == ("trtllm", "NVFP4")
    assert not any(line[0] == "run" for line in on_a_spark.asked())  # it starts when it is first used
    flow = flows.serving_flow(spark_model, sizes)[0].command
    for name in ("--max_batch_size", "--max_num_tokens", "--max_seq_len"):
        assert server.command[server.command.index(name) + 1] == flow[flow.index(name) + 1]
    mount = next(word for word in server.command if word.endswith(":/labs:ro"))
    keys = json.loads((Path(mount.removesuffix(":/labs:ro")) / "config.yml").read_text())
    assert keys["cuda_graph_config"] == {"enable_padding": True, "max_batch_size": 4}
    assert explain_yaml(keys) == []
    server.end()


# Made up by the form in TensorRT-LLM's source: no sample was seen on a Spark.
MADE_UP_CONFIG = {
    "version": "1.2.0",
    "pretrained_config": {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"},
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
    },
    "build_config": {
        "max_batch_size": 8,
        "max_input_len": 2048,
        "max_seq_len": 2176,
        "max_num_tokens": 2048,
        "kv_cache_type": "PAGED",
        "plugin_config": {
            "gemm_plugin": "auto", "moe_plugin": None, "use_fused_mlp": True, "user_buffer": False,
            "norm_quant_fusion": "disable", "tokens_per_block": 32,
        },
    },
}  # fmt: skip


def recorded(folder: Path, config: object) -> dict[str, str]:
    (folder / "config.json").write_text(json.dumps(config))
    return {key: value for key, value, _ in engine_folder.recorded(folder).rows}


def test_what_an_engines_config_records_is_shown(tmp_path: Path) -> None:
    found = recorded(tmp_path, MADE_UP_CONFIG)
    assert found["version"] == "1.2.0"
    assert found["pretrained_config.dtype"] == "bfloat16"
    assert found["pretrained_config.quantization.quant_algo"] == "null"
    assert found["pretrained_config.quantization.kv_cache_quant_algo"] == "FP8"
    assert found["pretrained_config.mapping.tp_size"] == "1"
    assert found["build_config.max_num_tokens"] == "2048"
    assert found["build_config.plugin_config"] == "gemm_plugin: auto, use_fused_mlp, tokens_per_block: 32"
    assert "missing" not in found.values()
    assert "no sample was seen on a Spark" in engine_folder.recorded(tmp_path).title


def test_a_key_that_an_engines_config_lacks_is_shown_as_missing(tmp_path: Path) -> None:
    found = recorded(tmp_path, {"pretrained_config": None, "build_config": {"max_batch_size": 8}})
    assert found.pop("build_config.max_batch_size") == "8"
    assert set(found.values()) == {"missing"}


def test_an_engine_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="can't be read"):
        engine_folder.recorded(tmp_path)
    with pytest.raises(LabError, match="holds no keys"):
        recorded(tmp_path, ["no", "keys"])


def test_the_folder_of_an_engine_is_explained(tmp_path: Path) -> None:
    for name, size in (("engine.blob", 3_000_000), ("manifest.json", 900), ("odd", 1)):
        (tmp_path / name).write_bytes(b"x" * size)
    rows = engine_folder.contents(tmp_path).rows
    assert [row[0] for row in rows] == ["engine.blob", "manifest.json", "odd"]
    assert rows[0][1:] == ("3.000", "OpenVINO's compiled graph and its weights, for this processor")
    assert engine_folder.on_disk([], [tmp_path]).rows[0][1:] == ("3", "shutil.rmtree(folder)")


def test_the_documented_form_of_a_report_is_readable(tmp_path: Path) -> None:
    file = tmp_path / "form.json"
    file.write_text(json.dumps(bench_report.form()))
    found = bench_report.read(file)
    assert {value for value in found.values() if value != ""} == {0}
    assert len(bench_report.places().rows) == len(found) - 2  # version and backend are no figures


def test_preflight_on_a_spark(on_a_spark: Docker, spark: Machine, spark_model: ModelChoice) -> None:
    found = {check.name: check for check in preflight.checks(spark, spark_model, "BF16", "build")}
    assert set(found) == {"GPU", "image", "version", "disk", "memory", "access"}
    assert found["GPU"].ok
    assert "3 × the weights" in found["disk"].found
    assert "about 50 needed" in found["memory"].found


@pytest.mark.parametrize(
    ("tag", "ok", "found"),
    [
        ("1.2.1", True, "TensorRT-LLM 1.2.1 builds TensorRT engines"),
        ("1.3.0rc20", True, "builds TensorRT engines"),
        ("1.3.0rc26", False, "can't build TensorRT engines: 1.3.0rc20 is the last version with trtllm-build"),
        ("25.11-trtllm-python-py3", True, "Triton of 2025-11, before TensorRT engines were removed in 2026-07"),
        ("26.08-trtllm-python-py3", False, "Triton of 2026-08, and not before"),
        ("latest", False, "the tag latest names no version"),
    ],
)
def test_an_image_without_the_builder_is_refused(
    on_a_spark: Docker, spark: Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch,
    tag: str, ok: bool, found: str,
) -> None:  # fmt: skip
    image = replace(containers.images()["trtllm"], tag=tag)
    monkeypatch.setattr(containers, "images", lambda: {"trtllm": image})
    build = {check.name: check for check in preflight.checks(spark, spark_model, "BF16", "build")}
    assert build["version"].ok is ok
    assert found in build["version"].found
    assert bool(build["version"].fix) is not ok
    assert "version" not in {check.name for check in preflight.checks(spark, spark_model, "BF16", "serve")}


def test_both_images_of_the_engine_flow_have_the_builder() -> None:
    assert preflight.version("trtllm").ok
    assert preflight.version("triton-trtllm").ok


def test_preflight_names_every_fault(
    machine: Machine, spark: Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 2**30))
    assert not preflight.disk(spark_model, "BF16", "build").ok
    assert "10 GiB free, 45 needed (3 × the weights)" in str(preflight.disk(spark_model, "BF16", "build"))
    assert "1 × the weights" in preflight.disk(spark_model, "BF16", "serve").found
    assert not preflight.memory(replace(spark, available_gib=30.0), spark_model, "BF16", "build").ok
    gated = catalogue.entry("llama-3.1-8b-instruct").sources["hf BF16"]
    with_account = replace(spark_model, sources={**spark_model.sources, "hf BF16": gated})
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    refused = preflight.access(with_account, "BF16")
    assert not refused.ok
    assert refused.fix.startswith("use unsloth/")
    assert refused.fix.endswith("export HF_TOKEN")
    (tmp_path / "token").write_text("hf_x")  # as `hf auth login` leaves it
    assert preflight.access(with_account, "BF16").ok
    assert preflight.access(spark_model, "NVFP4").ok
    assert not preflight.access(spark_model, "FP3").ok
    if not machine.gpu:
        assert not preflight.gpu(machine).ok

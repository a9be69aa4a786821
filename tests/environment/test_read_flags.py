"""The files of published command lines: their content, and that they contain every flag that the labs use."""

import ast
import importlib
import json
import re
import subprocess
import sys
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from environment import read_flags
from environment.containers.cli import own_parser
from shared import paths
from shared.engines import ENGINES, LaunchPlan
from shared.engines.published_flags import CLI, flags_of, published, unknown, unknown_keys, unknown_settings
from shared.models import ModelChoice

FILES = ("vllm", "sglang", "llamacpp", "ollama", "trtllm", "edgellm", "docker", "ray")
NATIVE = [name for name, spec in ENGINES.items() if spec.native]
NEEDED = {
    "vllm": "--max-num-seqs --max-model-len --kv-cache-memory-bytes --gpu-memory-utilization --enforce-eager "
    "--max-num-batched-tokens --served-model-name --speculative-config --enable-prompt-tokens-details "
    "--no-enable-prefix-caching --revision --port --host --nnodes --node-rank --headless",
    "sglang": "--mem-fraction-static --disable-flashinfer-autotune --attention-backend --max-total-tokens "
    "--speculative-algorithm --speculative-draft-model-path --speculative-num-steps --speculative-eagle-topk "
    "--speculative-num-draft-tokens --quantization --enable-metrics",
    "llamacpp": "-np -c -md -ngl --spec-type --spec-draft-n-max --no-spec-draft-backend-sampling --metrics --load-mode "
    "--host --port",
    "trtllm": "--max_batch_size --port --host --config --kv_cache_free_gpu_memory_fraction --max_seq_len",
    "docker": "--gpus --runtime --ipc --ulimit --label --publish --volume --env --rm --name --entrypoint",
}


@pytest.mark.parametrize("engine", FILES)
def test_a_file_says_what_it_was_read_from(engine: str) -> None:
    content = published(engine)
    assert content["engine"] == engine
    assert re.fullmatch(r"2026-1[12]-\d\d", content["checked"])
    assert re.search(r"\d+\.\d+\.\d+", content["version"])
    assert re.search(r"==\d|tag v\d|each command names its commit|documentation of \d", content["source"])


def test_there_is_no_other_file() -> None:
    assert {file.stem for file in CLI.glob("*.json")} == set(FILES)


@pytest.mark.parametrize("engine", FILES)
def test_every_flag_says_what_it_takes(engine: str) -> None:
    kinds = {"flag", "bool", "int", "float", "number", "size", "json", "path", "str"}
    for command in published(engine)["commands"]:
        flags = flags_of(engine, command)
        for name, flag in flags.items():
            assert re.fullmatch(r"--?[A-Za-z][\w.-]*", name), name
            takes = flag["takes"]
            assert takes in kinds if isinstance(takes, str) else len(takes) > 0, name
            for other in ("alias_of", "negates"):
                assert flag.get(other, name) in flags, f"{name}: {flag[other]}"


@pytest.mark.parametrize("engine", NEEDED)
def test_the_flags_that_a_container_needs_are_published(engine: str) -> None:
    first = next(iter(published(engine)["commands"]))
    assert [name for name in NEEDED[engine].split() if name not in flags_of(engine, first)] == []


def test_each_flag_has_a_line_of_its_own() -> None:
    for engine in FILES:
        lines = (CLI / f"{engine}.json").read_text().splitlines()
        said = [line for command in published(engine)["commands"].values() for line in command["flags"]]
        assert len([line for line in lines if re.match(r' +"--?[\w.-]+": \{"takes"', line)]) == len(said), engine


@pytest.mark.parametrize(
    ("engine", "line", "says"),
    [
        ("vllm", "vllm serve m --max-num-seqs 8 --enforce-eager --port=8000", []),
        ("vllm", "m --max-num-seqs 8", []),
        ("vllm", "m --max-num-sequences 8", ["vllm serve has no --max-num-sequences"]),
        ("vllm", "m --max-num-seq 8", ["vllm serve has no --max-num-seq"]),  # an abbreviation, too
        ("vllm", "m --max-num-seqs", ["--max-num-seqs: its value is missing"]),
        ("vllm", "m --max-num-seqs --enforce-eager", ["--max-num-seqs: its value is missing"]),
        ("vllm", "m --max-num-seqs many", ["--max-num-seqs takes no 'many', but int"]),
        ("vllm", "m --max-model-len 4k --kv-cache-memory-bytes 2G", []),
        ("vllm", "m --enforce-eager=1", ["--enforce-eager takes no value"]),
        ("vllm", "m --seed -1", []),
        ("vllm", "m n", ["vllm serve takes no 'n'"]),
        ("vllm", "m --served-model-name a b --port 1", []),  # it takes several
        ("vllm", "m -tp 2", []),
        ("vllm", "m --speculative-config {'method':1}", ["--speculative-config takes no \"{'method':1}\", but json"]),
        ("vllm", "m --speculative-config.method eagle3", []),
        ("vllm", "m --port.x 1", ["vllm serve has no --port.x"]),
        ("vllm", "m --enable-shm-tensor-arena", ["vllm serve has no --enable-shm-tensor-arena"]),  # 0.32 has it
        ("vllm", "/x/bin/python -m vllm.entrypoints.openai.api_server --enable-shm-tensor-arena", []),
        ("sglang", "python3 -m sglang.launch_server --attention-backend flashinfer", []),
        ("sglang", "sglang serve --attention-backend torch_native", []),
        ("llamacpp", "/app/llama-server -np 4 -c 8192 -ngl all --spec-type ngram-simple,draft-simple", []),
        ("llamacpp", "-n -1 --draft-max 3", ["llama-server has no --draft-max any more"]),
        ("llamacpp", "-np -c 5", ["-np: its value is missing"]),
        ("llamacpp", "-np x", ["-np takes no 'x', but number"]),
        ("trtllm", "trtllm-serve m --max_batch_size 8 --config c.yml", []),
        ("trtllm", "trtllm-serve serve m --max_batch_size 8", []),
        (
            "trtllm",
            "trtllm-serve --backend tensorrt",
            ["--backend takes no 'tensorrt', but one of _autodeploy, pytorch"],
        ),
        ("trtllm", "trtllm-bench --model m throughput --dataset d", []),
        ("trtllm", "python examples/convert_checkpoint.py --model_dir m --output_dir c --dtype bfloat16", []),
        ("docker", "docker run --rm --gpus all -p 127.0.0.1:1:8000 image --max-num-seqs 8", []),
        ("docker", "docker run --rm --gpu all image", ["docker run has no --gpu"]),
        ("docker", "docker manifest inspect --verbose image", []),
        ("docker", "docker pull --platform linux/arm64 image tag", ["docker pull takes no 'tag'"]),
        ("ray", "ray start --head --port=6379 --include-dashboard=false", []),
        ("ray", "ray start --include-dashboard", ["--include-dashboard: its value is missing"]),
        ("ray", "ray start --adress=1.2.3.4:6379 --block", ["ray start has no --adress"]),
        ("ollama", "/opt/bin/ollama serve", []),
        ("ollama", "ollama serve --port 1", ["ollama serve has no --port"]),
    ],
)
def test_what_is_not_published_is_reported(engine: str, line: str, says: list[str]) -> None:
    assert unknown(engine, line.split()) == says


def test_a_value_outside_the_choices_is_reported() -> None:
    [said] = unknown("sglang", ["--attention-backend", "flash"])
    assert said.startswith("--attention-backend takes no 'flash', but one of ")
    assert "flashinfer" in said


def test_the_outlines_command_is_reported() -> None:
    line = published("trtllm")["verify"]["command"].split()
    assert unknown("trtllm", line) == [
        "python -m tensorrt_llm.commands.build has no --model_dir",
        "python -m tensorrt_llm.commands.build has no --dtype",
        "--use_fused_mlp: its value is missing",
    ]


def test_what_is_not_published_of_the_environment_is_reported() -> None:
    right: dict[str, object] = {"OLLAMA_NUM_PARALLEL": 4, "OLLAMA_NO_CLOUD": 1, "LLAMA_ARG_THREADS": 2}
    assert unknown_settings("ollama", right | {"LLAMA_ARG_ENDPOINT_METRICS": "1"}) == []
    assert unknown_settings("ollama", {"OLLAMA_PARALLEL": 4, "OLLAMA_NUM_PARALLEL": -1, "OLLAMA_NO_CLOUD": "yes"}) == [
        "ollama reads no OLLAMA_PARALLEL",
        "OLLAMA_NUM_PARALLEL takes no '-1', but uint",
        "OLLAMA_NO_CLOUD takes no 'yes', but bool",
    ]


def test_keys_of_the_yaml_file_that_are_not_published_are_reported() -> None:
    draft = {"decoding_type": "Eagle3", "max_draft_len": 3, "speculative_model_dir": "head"}
    right = {"kv_cache_config": {"free_gpu_memory_fraction": 0.3}, "speculative_config": draft}
    assert unknown_keys({**right, "enable_iter_perf_stats": True}) == []
    assert unknown_keys({"use_cuda_graph": True, "kv_cache_config": {"fraction": 1, "onboard_blocks": 1}}) == [
        "no key use_cuda_graph",
        "no key kv_cache_config.fraction",
        "kv_cache_config.onboard_blocks is gone in newer ones",
    ]
    assert unknown_keys({"speculative_config": {"decoding_type": "eagle"}}) == ["no decoding_type eagle"]
    assert unknown_keys({"speculative_config": {**draft, "steps": 3}}) == ["no key speculative_config.steps"]


def native_start(name: str, model: ModelChoice) -> LaunchPlan:
    native = ENGINES[name].native
    assert native is not None
    return LaunchPlan(Path("/opt/engine"), model, native.precisions[0], 4711, 2, weights="/opt/weights")


@pytest.mark.parametrize("name", NATIVE)
def test_the_native_engines_get_published_flags(name: str, model: ModelChoice) -> None:
    native = ENGINES[name].native
    assert native is not None
    start = native_start(name, model)
    line = native.command(start)
    assert unknown(name, line) == []
    assert unknown(name, [*line, "--no-such-flag"]) != []
    if ENGINES[name].flags_in == "environment":
        settings = dict(native.env(start))
        del settings["HOME"]  # of any program
        assert unknown_settings(name, settings) == []


def cells(notebook: Path) -> Iterator[ast.Module]:
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            yield ast.parse("".join(cell["source"]))


def launches(notebook: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(engine, its flags) of every launch in a notebook; a value that a cell computes is an Ellipsis."""
    for node in (node for cell in cells(notebook) for node in ast.walk(cell)):
        match node:
            case ast.Call(func=ast.Name("launch"), args=[ast.Constant(str() as engine), _, ast.Dict() as flags]):
                yield engine, plain(flags)
            case ast.Call(func=ast.Attribute(attr="start_engines"), args=[*_, ast.Dict(keys, values)]):
                for key, flags in zip(keys, values, strict=True):
                    assert isinstance(key, ast.Constant)
                    assert isinstance(flags, ast.Dict)
                    yield key.value, plain(flags)


def plain(flags: ast.Dict) -> dict[str, Any]:
    """Those written here: what `**others` brings along is written elsewhere."""
    return {
        ast.literal_eval(key): value.value if isinstance(value, ast.Constant) else ...
        for key, value in zip(flags.keys, flags.values, strict=True)
        if key
    }


def as_line(engine: str, flags: dict[str, Any]) -> list[str]:
    """Arguments as the launcher makes them; for a computed value any that the flag takes."""
    known = flags_of(engine, next(iter(published(engine)["commands"])))
    line: list[str] = []
    for name, value in flags.items():
        takes = known.get(name, {}).get("takes")
        fitting = takes[0] if isinstance(takes, list) else "{}" if takes == "json" else "1"
        switch = value is True or (value is ... and takes == "flag")
        line += [name] if switch else [] if value is False else [name, fitting if value is ... else str(value)]
    return line


NOTEBOOKS = sorted((paths.REPO / "solutions").glob("*.ipynb"))
WRONG_ON_PURPOSE = {"--max-num-sequences"}  # lab 3.3.2 shows what a flag that doesn't exist looks like


def test_the_notebooks_launch_with_published_flags(model: ModelChoice) -> None:
    seen = set()
    for notebook in NOTEBOOKS:
        for engine, flags in launches(notebook):
            seen.add(engine)
            spec = ENGINES[engine]
            if spec.flags_in == "environment":
                wrong = unknown_settings(engine, {n: 1 if v is ... else v for n, v in flags.items()})
            else:
                # The same cell serves the container and the native engine, which may be of another version.
                line = as_line(engine, flags)
                begin = spec.native.command(native_start(engine, model)) if spec.native else []
                wrong = unknown(engine, line) + unknown(engine, [*begin, *line])
            assert wrong == [], notebook.name
    assert {"ollama", "llamacpp", "vllm", "sglang"} <= seen


def test_flags_that_a_notebook_keeps_elsewhere_are_published_by_some_engine() -> None:
    known = {
        flag for engine in FILES for command in published(engine)["commands"] for flag in flags_of(engine, command)
    }
    nodes = [node for notebook in NOTEBOOKS for cell in cells(notebook) for node in ast.walk(cell)]
    keys = [key for node in nodes if isinstance(node, ast.Dict) for key in node.keys]
    flags = {key.value for key in keys if isinstance(key, ast.Constant) and str(key.value).startswith("-")}
    assert flags - known == WRONG_ON_PURPOSE != flags


def test_the_files_are_of_the_versions_that_are_installed() -> None:
    recipes = {name: importlib.import_module(f"environment.engines.{name}.recipe").VERSION for name in NATIVE}
    assert published("vllm")["commands"]["python -m vllm.entrypoints.openai.api_server"]["version"] == recipes["vllm"]
    assert published("sglang")["version"] == recipes["sglang"]
    assert published("ollama")["version"] == recipes["ollama"]
    assert f"llama-cpp-python {recipes['llamacpp']} " in published("llamacpp")["version"]


@pytest.mark.programs
@pytest.mark.parametrize("engine", ["llamacpp", "sglang"])
def test_reading_an_installed_engine_again_gives_its_file(engine: str) -> None:
    said = published(engine)
    assert read_flags.READERS[engine]() == {key: said[key] for key in said if key not in ("engine", "checked")}


def test_a_parser_is_described_by_what_it_takes() -> None:
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--max-seqs", "-ms", type=int, default=4)
    parser.add_argument("--config", type=json.loads)
    parser.add_argument("--share", type=float)
    parser.add_argument("--kind", choices={"b", "a"}, nargs="+")
    parser.add_argument("--cache", action=BooleanOptionalAction, default=True)
    parser.add_argument("--old", action="store_true", help="Deprecated: use --new")
    found = {name: flag for action in parser._actions for name, flag in own_parser.describe(action).items()}
    assert found == {
        "--max-seqs": {"takes": "int", "default": 4},
        "-ms": {"takes": "int", "alias_of": "--max-seqs"},
        "--config": {"takes": "json"},
        "--share": {"takes": "float"},
        "--kind": {"takes": ["a", "b"], "nargs": "+"},
        "--cache": {"takes": "flag", "default": True},
        "--no-cache": {"takes": "flag", "negates": "--cache"},
        "--old": {"takes": "flag", "deprecated": True},
    }


def test_a_file_is_written_by_a_known_name_only() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "environment.read_flags", "trtllm"], cwd=paths.REPO, capture_output=True, text=True
    )
    assert said.returncode == 2
    assert said.stderr.startswith("usage: .venv/bin/python -m environment.read_flags vllm | sglang")

"""The specs of all engines, without starting an engine."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import LabError, launch
from shared.engines import CAPABILITIES, ENGINES, LaunchPlan, as_arguments, matrix
from shared.engines.http import byte_vocabulary
from shared.engines.spec import Native
from shared.launch.memory import Need
from shared.launch.running import Engine, flag_environment
from shared.models import ModelChoice

HOME = Path("/opt/engine")


def started(name: str, model: ModelChoice, **flags: object) -> LaunchPlan:
    return LaunchPlan(
        HOME, model, "BF16", 4711, 2, {f"--{k.replace('_', '-')}": v for k, v in flags.items()}, "/weights"
    )


def native(name: str) -> Native:
    way = ENGINES[name].way("native")
    assert isinstance(way, Native)
    return way


def test_a_start_command_shows_what_the_labs_set_in_the_environment(model: ModelChoice) -> None:
    spec, flags = ENGINES["vllm"], {"--max-num-seqs": 4}
    command = [str(Path.home() / "x" / "python"), "-m", "server", "--max-num-seqs", "4"]
    nobody: Any = None
    engine = Engine(spec, model, "BF16", flags, 2, "1", command, 4711, Path("log"), nobody, Need("", 1, 1, 1, 1))
    lines = engine.command_line().splitlines()
    assert "VLLM_CPU_KVCACHE_SPACE=1 \\" in lines
    assert lines[-2:] == ["~/x/python -m server \\", "  --max-num-seqs 4"]


def test_flags_become_arguments_in_their_order() -> None:
    assert as_arguments({"-np": 16, "--flag": True, "--off": False, "--x": "a b"}) == [
        "-np",
        "16",
        "--flag",
        "--x",
        "a b",
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_an_engine_on_torch_is_told_what_to_compute_in(
    monkeypatch: pytest.MonkeyPatch, model: ModelChoice, name: str, dtype: str
) -> None:
    monkeypatch.setattr(f"shared.engines.{name}.torch_dtype", lambda: dtype)
    line = native(name).command(started(name, model))
    assert line[line.index("--dtype") + 1] == dtype


def test_every_no_in_the_matrix_has_its_reason() -> None:
    for runner in ("native", "container"):
        header, rows = matrix(runner)
        for row in rows:
            assert all(cell == "yes" or len(cell.removeprefix("no: ")) > 10 for cell in row[1:])
    assert rows[-1][1] == "yes"  # TensorRT-LLM, in its container
    header, rows = matrix("native")
    assert header == ("engine", *CAPABILITIES)
    assert [row[0] for row in rows] == ["Ollama", "llama.cpp", "vLLM", "SGLang", "TensorRT-LLM"]
    assert set(rows[-1][1:]) == {"no: it needs an NVIDIA GPU"}


@pytest.mark.parametrize("name", [n for n in ENGINES if n != "trtllm"])
def test_an_engine_listens_on_this_machine_only(name: str, model: ModelChoice) -> None:
    start = started(name, model)
    said = " ".join([*native(name).command(start), *native(name).env(start).values()])
    assert "127.0.0.1" in said
    assert "4711" in said
    assert "0.0.0.0" not in said


@pytest.mark.parametrize(
    ("cores", "ranks", "bound"),
    [("0,1", 1, "0,1"), ("0,1", 2, "0|1"), ("0,1", 3, "0|1|1"), ("0,1,2,3,4,5", 3, "0,1|2,3|4,5")],
)
def test_ranks_of_vllm_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, model: ModelChoice, cores: str, ranks: int, bound: str
) -> None:
    numbers = {int(c) for c in cores.split(",")}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: numbers)
    start = replace(started("vllm", model, tensor_parallel_size=ranks), cores=len(numbers))
    assert native("vllm").env(start)["VLLM_CPU_OMP_THREADS_BIND"] == bound


def test_ollama_takes_its_flags_from_the_environment(model: ModelChoice) -> None:
    spec = ENGINES["ollama"]
    assert flag_environment(spec, {"OLLAMA_NUM_PARALLEL": 16}) == {"OLLAMA_NUM_PARALLEL": "16"}
    assert flag_environment(ENGINES["vllm"], {"--max-num-seqs": 16}) == {}
    assert spec.served_name(model, "Q8_0") == f"{model.name}:q8_0"
    own = native("ollama").env(started("ollama", model))
    assert own["OLLAMA_MODELS"] == own["HOME"] != os.environ["HOME"]


def test_tensorrt_llm_says_what_it_needs(model: ModelChoice) -> None:
    with pytest.raises(LabError, match="TensorRT-LLM can't be started here: it needs an NVIDIA GPU"):
        launch.launch("trtllm", model)


def test_bytes_name_the_tokens_of_the_vocabulary(model: ModelChoice) -> None:
    from tokenizers import Tokenizer

    file = model.folder / "hf" / "tokenizer.json"
    tokenizer, ids = Tokenizer.from_file(str(file)), byte_vocabulary(file)
    assert len(ids) == tokenizer.get_vocab_size() - len(tokenizer.get_added_tokens_decoder())
    text = "Gravity — naïve, 17 + 25\n\tdef f(): 'x'"
    encoded = tokenizer.encode(text, add_special_tokens=False).ids
    by_id = {number: piece for piece, number in ids.items()}
    assert b"".join(by_id[i] for i in encoded).decode() == text


def test_every_engine_can_be_told_from_the_others_in_a_figure() -> None:
    from shared.report.plots import LOOK

    assert set(LOOK) == set(ENGINES)
    assert len({look[0] for look in LOOK.values()}) == len({look[1] for look in LOOK.values()}) == len(ENGINES)

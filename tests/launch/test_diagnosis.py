"""The causes that a failed launch shows. The engines printed each line below when the failure was provoked for real."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from shared.engines import ENGINES
from shared.engines.ollama import flags_fault
from shared.launch.diagnosis import failure, likely_causes
from shared.launch.running import Engine

GATED = """\
OSError: You are trying to access a gated repo.
Make sure to have access to it at https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct.
401 Client Error.

Cannot access gated repo for url http://127.0.0.1:39067/meta-llama/Llama-3.1-8B-Instruct/resolve/main/config.json."""
NO_REPO = """\
huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.
If you are trying to access a private or gated repo, make sure you are authenticated and your token has the \
required permissions.
OSError: nobody/nothing is not a local folder and is not a valid model identifier listed on \
'https://huggingface.co/models'"""
OFFLINE = """\
    raise LocalEntryNotFoundError(
huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the \
specified revision on the local disk and outgoing traffic has been disabled."""
NO_PATH = "Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/nowhere/model'."

PROVOKED = [
    ("llamacpp", "error: invalid argument: --no-such-flag", "llama.cpp doesn't know a flag"),
    ("llamacpp", 'error while handling argument "-c": stoi', "llama.cpp can't read a flag's value"),
    (
        "llamacpp",
        "0.00.005.114 E gguf_init_from_file: failed to open GGUF file '/nowhere/model' (No such file or directory)\n"
        "0.00.005.212 E llama_model_load: error loading model: llama_model_loader: failed to load model",
        "the model was not found",
    ),
    (
        "llamacpp",
        "0.00.018.803 E llama_model_load: error loading model: tensor 'blk.5.ffn_up.weight' data is not within the "
        "file bounds, model is corrupted or incomplete",
        "the model file is torn, or not a GGUF file",
    ),
    (
        "llamacpp",
        "0.00.006.107 E gguf_init_from_reader: invalid magic characters: '#<?_', expected 'GGUF'",
        "the model file is torn, or not a GGUF file",
    ),
    (
        "llamacpp",
        "0.00.003.860 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 51521",
        "the engine's port is taken",
    ),
    (
        "llamacpp",
        "0.00.269.411 E llama_init_from_model: failed to initialize the context: n_seq_max must be <= 256",
        "the flags ask for more slots than llama.cpp has",
    ),
    ("ollama", "Error: listen tcp 127.0.0.1:51521: bind: address already in use", "the engine's port is taken"),
    (
        "ollama",
        "llama_init_from_model: failed to initialize the context: n_seq_max must be <= 256",
        "the flags ask for more slots than llama.cpp has",
    ),
    ("vllm", "api_server.py: error: unrecognized arguments: --no-such-flag", "vLLM doesn't know a flag"),
    ("vllm", f"huggingface_hub.errors.HFValidationError: {NO_PATH}", "the model was not found"),
    ("vllm", "OSError: [Errno 98] Address already in use", "the engine's port is taken"),
    (
        "vllm",
        "  Value error, Total number of attention heads (9) must be divisible by tensor parallel size (2).",
        "the number of attention heads is not divisible by the tensor-parallel size",
    ),
    (
        "vllm",
        "ValueError: Available memory on node 0 (20.22/22.59 GiB) on kv cache allocation is less than requested "
        "memory for kv (200.0 GiB).",
        "there is too little memory for the KV cache",
    ),
    (
        "vllm",
        "(EngineCore pid=2595) ERROR 11-24 02:04:59 [core.py:1510] ValueError: No available memory for the cache "
        "blocks. Try increasing `gpu_memory_utilization` when initializing the engine",
        "there is too little memory for the KV cache",
    ),
    (
        "vllm",
        "  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len "
        "(max_position_embeddings=8192.0 or model_max_length=None in model's config.json).",
        "the flags ask for a longer context than the model has",
    ),
    ("vllm", GATED, "the model is gated, and no token is set"),
    ("vllm", NO_REPO, "the model was not found"),
    ("vllm", OFFLINE, "the model was not found"),
    ("sglang", "sglang serve: error: unrecognized arguments: --no-such-flag 1", "SGLang doesn't know a flag"),
    ("sglang", f"OSError: {NO_PATH} Use `repo_type` argument if needed.", "the model was not found"),
    (
        "sglang",
        "[2026-11-24 02:08:10] ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 51521): "
        "address already in use",
        "the engine's port is taken",
    ),
    (
        "sglang",
        "AssertionError: SGLANG_CPU_OMP_THREADS_BIND is not set, in this case, the total number of ranks "
        "(dp_size * tp_size * pp_size = 2) should be smaller than or equal to number of numa node on the machine",
        "SGLang can't run tensor parallel on this processor",
    ),
    ("sglang", GATED, "the model is gated, and no token is set"),
]


@pytest.mark.parametrize(("engine", "lines", "cause"), PROVOKED)
def test_the_likeliest_cause_is_recognised_and_quoted(tmp_path: Path, engine: str, lines: str, cause: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"INFO: starting up\n{lines}\nINFO: shutting down\n")
    first = likely_causes(ENGINES[engine], log, in_container=True)[0]
    assert first.startswith(f"{cause} → ")
    assert any(line.strip() and first.endswith(line.strip()) for line in lines.splitlines()), first


def test_an_unknown_failure_shows_its_first_exception(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "WARNING: ulimit: `OSError: [Errno 24] Too many open files`\n"
        "(Worker pid=2505) ERROR 11-24 02:03:19 [multiproc_executor.py:1063]     raise ValueError(\n"
        "(Worker pid=2505) ERROR 11-24 02:03:19 [multiproc_executor.py:1063] ValueError: the moon is full\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    engine = SimpleNamespace(
        process=SimpleNamespace(exit_code=lambda: 1),
        tail=lambda: "the last line",
        log=log,
        spec=ENGINES["vllm"],
        container="labs-vllm",
    )
    error = failure(cast(Engine, engine), "vLLM ended while starting.")
    said, fix = str(error).split("\nFix: ")
    told = f"vLLM ended while starting. Last lines of {log}:\n  | the last line\nNo known cause matches this log."
    assert said.startswith(told)
    assert "The first error in its log: (Worker pid=2505)" in said
    assert said.endswith("ValueError: the moon is full")
    assert f"less {log} " in fix
    assert "make doctor" in fix
    log.write_text("nothing\n")
    error = failure(cast(Engine, engine), "vLLM ended while starting.")
    assert str(error).split("\nFix: ") == [told, fix]


OLLAMA = """\
time=2026-11-24T02:00:45.505Z level=WARN source=config.go:263 msg="invalid environment variable, using default" \
key=OLLAMA_NUM_PARALLEL value=many default=1
time=2026-11-24T02:00:45.505Z level=INFO source=routes.go:1951 msg="server config" env="map[CUDA_VISIBLE_DEVICES: \
OLLAMA_CONTEXT_LENGTH:1024 OLLAMA_NUM_PARALLEL:1 OLLAMA_ORIGINS:[http://localhost https://localhost] no_proxy:]"
"""


def test_a_setting_that_ollama_leaves_aside_is_noticed() -> None:
    assert flags_fault(OLLAMA, {"OLLAMA_NUM_PARALLEL": "many"}) == "can't read OLLAMA_NUM_PARALLEL=many"
    calm = OLLAMA.splitlines()[1]
    assert flags_fault(calm, {"OLLAMA_NUM_PARALLEL": 1, "LLAMA_ARG_N_PREDICT": 4}) == ""
    assert flags_fault(calm, {"OLLAMA_NUM_PARALEL": 4}) == "has no setting OLLAMA_NUM_PARALEL"


def test_an_engine_without_a_container_has_no_causes_of_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("ERROR: kernel cache not found, made anew\n")
    [said] = likely_causes(ENGINES["vllm"], log, in_container=True)
    assert said.startswith("there is no such image or tag")
    assert likely_causes(ENGINES["vllm"], log, in_container=False) == []

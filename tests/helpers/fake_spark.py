"""What a recorded DGX Spark needs to start containers: bounded flags, scripted memory readings, a stand-in engine."""

import sys
from pathlib import Path

# For each engine a KV cache of 32768 tokens, bounded as a container's must be.
FLAGS: dict[str, dict[str, object]] = {
    "vllm": {"--max-num-seqs": 16, "--max-model-len": 2048},
    "sglang": {"--max-total-tokens": 32768},
    "trtllm": {"--max_batch_size": 16, "--max_seq_len": 2048},
    "llamacpp": {"-c": 32768},
    "ollama": {"OLLAMA_NUM_PARALLEL": 16, "OLLAMA_CONTEXT_LENGTH": 2048},
}
# What runs inside of a container of the stand-in docker: no engine.
ENGINE = str(Path(__file__).with_name("standin_engine.py"))
INSIDE = [sys.executable, ENGINE, "{port}"]


def reading(file: Path, available_gib: float) -> None:
    """What /proc/meminfo would say, put there at once: no reader sees half of it."""
    new = file.with_suffix(".new")
    new.write_text(f"MemTotal:       127535712 kB\nMemAvailable:   {int(available_gib * 2**20)} kB\n")
    new.rename(file)

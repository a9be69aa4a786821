"""The flags of an engine's container where a command starts it: a small KV cache, which fits beside any of its models.

Without a limit an engine takes most of the memory for its KV cache, so `launch` refuses to start its container.
"""

from collections.abc import Mapping

from shared.engines import Flags
from shared.hardware import Machine

FLAGS: Mapping[str, Flags] = {  # 4 sequences of 4096 tokens
    "ollama": {"OLLAMA_NUM_PARALLEL": 4, "OLLAMA_CONTEXT_LENGTH": 4096},
    "llamacpp": {"-np": 4, "-c": 4 * 4096},
    "vllm": {"--max-num-seqs": 4, "--max-model-len": 4096},
    "sglang": {"--max-running-requests": 4, "--max-total-tokens": 4 * 4096, "--context-length": 4096},
    "trtllm": {"--max_batch_size": 4, "--max_seq_len": 4096},
}


def flags_for(name: str, machine: Machine) -> Flags:
    """The flags with which a command starts this engine on this machine. On a processor it has its own defaults."""
    return FLAGS[name] if machine.runner == "container" else {}

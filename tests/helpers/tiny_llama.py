"""Random models small enough to be computed in milliseconds, one of each architecture that the reference knows."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from shared.models.llama import Llama

TINY: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500.0,
}
CONFIGS = {
    "llama": LlamaConfig(**TINY, tie_word_embeddings=True),
    "llama, scaled positions, output of its own": LlamaConfig(**TINY, rope_parameters=SCALED),
    "qwen2": Qwen2Config(**TINY, tie_word_embeddings=True),
    "qwen3, wide heads": Qwen3Config(**TINY, head_dim=32, tie_word_embeddings=False),
}


def tiny(config: Any) -> tuple[Llama, Any]:
    """A random model, ours and transformers'. Biases and norms are made as 0 and 1: stirred, they show."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith("bias") or "norm" in name:
                weight.add_(torch.randn_like(weight) / 3)
    return Llama({**config.to_dict(), "architectures": [type(theirs).__name__]}, weights_of(theirs), None), theirs


def weights_of(theirs: Any) -> dict[str, torch.Tensor]:
    state = {name: weight.detach() for name, weight in theirs.state_dict().items()}
    return {name: w for name, w in state.items() if name != "lm_head.weight" or not theirs.config.tie_word_embeddings}

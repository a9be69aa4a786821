"""A head as files: the checkpoint that vLLM and SGLang load unchanged, and that llama.cpp's converter reads.

config.json names the class (LlamaForCausalLMEagle3), the sizes, the draft vocabulary, and the three layers of the model
whose inputs the head needs. model.safetensors holds the weights in BF16, with `d2t` and `t2d`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from shared.course.speculation.eagle3.head import Eagle3Head, HeadShape
from shared.course.speculation.eagle3.target_states import aux_layers
from shared.engines.draft_checks import HEAD_ARCHITECTURE, head_fault
from shared.errors import LabError
from shared.models.llama import rope

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def shape_for(target: Mapping[str, Any], draft_vocabulary: int, intermediate: int) -> HeadShape:
    """The shape of a head for the model of this config.json."""
    hidden, heads = int(target["hidden_size"]), int(target["num_attention_heads"])
    return HeadShape(
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=int(target["num_key_value_heads"]),
        head_dim=int(target.get("head_dim") or hidden // heads),
        vocabulary=int(target["vocab_size"]),
        draft_vocabulary=draft_vocabulary,
        eps=float(target["rms_norm_eps"]),
        rope_theta=float(rope(target)["rope_theta"]),
    )


def config_for(head: Eagle3Head, target: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a head for the model of the config.json `target`."""
    shape = head.shape
    return {
        **target,
        "architectures": [HEAD_ARCHITECTURE],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "num_hidden_layers": 1,
        "intermediate_size": shape.intermediate,
        "draft_vocab_size": shape.draft_vocabulary,
        "tie_word_embeddings": False,
        "target_hidden_size": shape.hidden,
        "eagle_aux_hidden_state_layer_ids": list(aux_layers(int(target["num_hidden_layers"]))),
    }


def save(head: Eagle3Head, target: Mapping[str, Any], folder: Path) -> None:
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        name: (tensor.bfloat16() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in head.state_dict().items()
    }
    save_file(stored, folder / WEIGHTS, {"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes files that only their owner can read
    (folder / CONFIG).write_text(json.dumps(config_for(head, target), indent=1) + "\n")


def load(folder: Path, target: Mapping[str, Any]) -> Eagle3Head:
    """The head of a folder, in float32, for the model of the config.json `target`.

    Raises LabError if it is missing or incomplete, or belongs to another model.
    """
    try:
        config, stored = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    except (OSError, ValueError) as e:
        raise LabError(
            f"No head can be read from {folder.name}/: {e}.", "git checkout environment/eagle3_head"
        ) from None
    if fault := head_fault(config, target):
        raise LabError(f"The head in {folder.name}/ doesn't fit this model: {fault}.", "take the head of this model")
    shape = shape_for(target, int(config["draft_vocab_size"]), int(config["intermediate_size"]))
    head = Eagle3Head(shape, range(shape.draft_vocabulary))  # its draft tokens come with the weights
    wanted = head.state_dict()
    if wanted.keys() != stored.keys() or any(wanted[name].shape != stored[name].shape for name in wanted):
        wrong = sorted(wanted.keys() ^ stored.keys()) or [n for n in wanted if wanted[n].shape != stored[n].shape]
        raise LabError(
            f"The head in {folder.name}/ has other weights than its config.json describes: {', '.join(wrong)}.",
            "git checkout environment/eagle3_head",
        )
    head.load_state_dict(stored)
    return head


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model or a head."""
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return found

"""Whether a draft fits a model, from their files alone.

An engine that is given a draft of another model ends with an unclear error, runs without it, or computes nonsense that
is then rejected. So the files are compared before the engine starts.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import LabError
from shared.models import gguf_header

HEAD_ARCHITECTURE = "LlamaForCausalLMEagle3"
HEAD_LAYERS = 3  # a low, a middle and a high one (Li et al., "EAGLE-3", 2025, section 3)
TOKENS = "tokenizer.ggml.tokens"


def fault(kind: str, draft: Path, model: Path) -> str:
    """The reason why the draft can't draft for the model; "" if it can.

    Both are folders with a config.json, or both GGUF files. Raises LabError if one can't be read.
    """
    if model.is_dir():
        return folder_fault(kind, draft, model)
    return gguf_fault(kind, gguf_header.read(draft), gguf_header.read(model))


def folder_fault(kind: str, draft: Path, model: Path) -> str:
    config, target = read_json(draft / "config.json"), read_json(model / "config.json")
    if not any(draft.glob("*.safetensors")):
        return "its folder has no weights (*.safetensors)"
    if kind == "eagle3":
        return head_fault(config, target)
    if config.get("vocab_size") != target["vocab_size"]:
        return f"its vocab_size is {config.get('vocab_size')}, but the model's is {target['vocab_size']}"
    own, others = (read_json(folder / "tokenizer.json")["model"]["vocab"] for folder in (draft, model))
    return "" if own == others else "its tokenizer.json gives other numbers to tokens than the model's"


def head_fault(config: Mapping[str, Any], target: Mapping[str, Any]) -> str:
    """The reason why a head of this config.json can't draft for the model of `target`; "" if it can."""
    if (config.get("architectures") or ["none"])[0] != HEAD_ARCHITECTURE:
        return f"its architecture is {(config.get('architectures') or ['none'])[0]}, not {HEAD_ARCHITECTURE}"
    for name, what in (("target_hidden_size", "hidden_size"), ("vocab_size", "vocab_size")):
        if config.get(name) != target[what]:
            return f"its {name} is {config.get(name)}, but the model's {what} is {target[what]}"
    return layers_fault(config.get("eagle_aux_hidden_state_layer_ids"), target["num_hidden_layers"])


def gguf_fault(kind: str, draft: Mapping[str, Any], target: Mapping[str, Any]) -> str:
    own, model = (keys["general.architecture"].decode() for keys in (draft, target))
    if (own == "eagle3") != (kind == "eagle3"):
        return f"its architecture is {own}, which is {'no' if kind == 'eagle3' else 'an'} EAGLE-3 head"
    if draft[TOKENS] != target[TOKENS]:
        there = f"its vocabulary has {len(draft[TOKENS]):,} tokens, and the model's {len(target[TOKENS]):,}"
        return (
            there if len(draft[TOKENS]) != len(target[TOKENS]) else "its vocabulary has other tokens than the model's"
        )
    if kind != "eagle3":
        return ""
    hidden = draft.get("eagle3.target_hidden_size")
    if hidden != target[f"{model}.embedding_length"]:
        return f"its target_hidden_size is {hidden}, but the model's is {target[f'{model}.embedding_length']}"
    return layers_fault(draft.get("eagle3.target_layers"), target[f"{model}.block_count"])


def layers_fault(needed: Sequence[int] | None, layers: int) -> str:
    """The reason why a head can't take its hidden states from these layers of a model; "" if it can."""
    needed = needed or ()
    if len(needed) != HEAD_LAYERS:
        named = ", ".join(map(str, needed)) or "none"
        return f"it must name the {HEAD_LAYERS} layers of the model whose hidden states it reads, but names {named}"
    deepest = max(needed)
    return "" if deepest < layers else f"it needs the input of layer {deepest}, but the model has {layers} layers"


def read_json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        raise LabError(
            f"{file.parent.name}/{file.name} can't be read: {why}.", "give the folder of a head or a model"
        ) from None
    return found

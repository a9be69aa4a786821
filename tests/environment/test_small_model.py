"""Every engine runs the same weights: the safetensors and the BF16 GGUF hold equal numbers."""

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from shared.models import ModelChoice


@pytest.mark.programs
def test_safetensors_and_gguf_hold_the_same_numbers(model: ModelChoice) -> None:
    ours = load_file(model.weights("hf") / "model.safetensors")
    theirs = {t.name: t for t in gguf.GGUFReader(model.weights("BF16")).tensors}
    assert len(ours) == len(theirs) == 272
    assert sum(t.numel() for t in ours.values()) == model.parameters

    def same(name: str, gguf_name: str, heads: int = 0) -> None:
        tensor = theirs[gguf_name]
        numbers = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))
        if heads:  # rotary pairs: side by side in GGUF, two halves in safetensors
            numbers = numbers.reshape(heads, 32, 2, -1).transpose(1, 2).reshape(numbers.shape)
        assert torch.equal(ours[name].float(), numbers), name

    same("model.embed_tokens.weight", "token_embd.weight")
    same("model.norm.weight", "output_norm.weight")
    for layer in range(model.layers):
        here, there = f"model.layers.{layer}", f"blk.{layer}"
        same(f"{here}.input_layernorm.weight", f"{there}.attn_norm.weight")
        same(f"{here}.self_attn.q_proj.weight", f"{there}.attn_q.weight", heads=9)
        same(f"{here}.self_attn.k_proj.weight", f"{there}.attn_k.weight", heads=3)
        same(f"{here}.self_attn.v_proj.weight", f"{there}.attn_v.weight")
        same(f"{here}.self_attn.o_proj.weight", f"{there}.attn_output.weight")
        same(f"{here}.post_attention_layernorm.weight", f"{there}.ffn_norm.weight")
        for name in ("gate", "up", "down"):
            same(f"{here}.mlp.{name}_proj.weight", f"{there}.ffn_{name}.weight")


def test_sizes_follow_from_the_shape(model: ModelChoice) -> None:
    assert model.kv_bytes_per_token() == 2 * 30 * 3 * 64 * 2 == 23_040
    size = (model.weights("hf") / "model.safetensors").stat().st_size
    assert 0 <= size - model.weight_bytes() < 100_000  # the rest is the header


@pytest.mark.programs
def test_the_quantized_files_are_what_they_say(model: ModelChoice) -> None:
    for form, kind in (("Q8_0", gguf.GGMLQuantizationType.Q8_0), ("Q4_0", gguf.GGMLQuantizationType.Q4_0)):
        [tensor] = [t for t in gguf.GGUFReader(model.weights(form)).tensors if t.name == "blk.0.ffn_up.weight"]
        assert tensor.tensor_type == kind
    assert model.sha256("BF16") != model.sha256("Q8_0") != model.sha256("hf")


def test_any_text_survives_the_tokenizer(model: ModelChoice) -> None:
    tokenizer = Tokenizer.from_file(str(model.weights("hf") / "tokenizer.json"))
    for text in ("naïve café – 北京 🚀", "def f(x):\n\treturn x  # 1969", "  two  spaces ", "١٢٣ ½ ²"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text

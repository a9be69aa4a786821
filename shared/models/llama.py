"""A Llama, Qwen2 or Qwen3 model in plain torch: what every engine computes, on three screens.

A forward pass appends T new tokens to each of B sequences. The same function does prefill, chunked prefill and decode:
prefill appends the whole prompt to an empty cache, decode appends one token. Sequences may have different lengths.
Shorter ones are padded on the right. A query sees only cache positions up to its own, so padding is never seen, and
the next real token overwrites it.

The model is also the reference that engines are judged by. Greedy texts of two correct engines differ, because BF16
rounding decides near-ties differently. So `greedy_gap` feeds the engine's own tokens to the reference in float32, and
returns how far each chosen token is below the best one. A correct BF16 engine stays within 0.5 nats at every step and
0.005 on average (metrics.gap_fault). A wrong template, 4-bit weights or another model does not.

    llama = Llama.load(model.weights("hf"), torch.float32)
    worst = max(greedy_gap(llama, messages, tokens_of_the_engine))
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from shared.errors import LabError
from shared.hardware.machine import detect
from shared.models.catalogue import ANOTHER_MODEL

Message = Mapping[str, str]
ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@dataclass
class KVCache:
    """Keys and values of B sequences, with room for S tokens each."""

    keys: Tensor  # [layers, B, kv_heads, S, head_dim], rotated
    values: Tensor  # [layers, B, kv_heads, S, head_dim]
    lengths: Tensor  # [B]: tokens stored of each sequence


class Llama:
    """Weights and shape of one model. Raises LabError for an architecture or a weight that it can't compute.

    Qwen2 has a bias on queries, keys and values, Qwen3 a norm on each head's query and key. Any of the three may have
    a separate output matrix.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Any) -> None:
        if fault := architecture_fault(config):
            raise LabError(f"The reference can't compute this model: {fault}.", ANOTHER_MODEL)
        self.layers = int(config["num_hidden_layers"])
        self.heads, self.kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
        self.hidden, self.eps = int(config["hidden_size"]), float(config["rms_norm_eps"])
        self.head_dim = int(config.get("head_dim") or self.hidden // self.heads)
        self.context = int(config["max_position_embeddings"])
        ends = config["eos_token_id"]
        self.ends = frozenset(ends if isinstance(ends, list) else [ends])  # any of them ends an answer
        self.tokenizer, left = tokenizer, dict(weights)

        def of(layer: int, *names: str) -> Tensor:
            return torch.cat([left.pop(f"model.layers.{layer}.{n}") for n in names]).contiguous()

        def maybe(layer: int, *names: str) -> Tensor | None:
            return of(layer, *names) if f"model.layers.{layer}.{names[0]}" in left else None

        every = range(self.layers)
        self.embedding = left.pop("model.embed_tokens.weight")  # [vocabulary, hidden]
        self.output = left.pop("lm_head.weight", self.embedding)  # the same matrix, unless the model has a separate one
        self.norm = left.pop("model.norm.weight")
        self.attn_norm = [of(i, "input_layernorm.weight") for i in every]
        self.mlp_norm = [of(i, "post_attention_layernorm.weight") for i in every]
        # One matrix product instead of three, and one instead of two.
        self.qkv = [of(i, *(f"self_attn.{x}_proj.weight" for x in "qkv")) for i in every]
        self.qkv_bias = [maybe(i, *(f"self_attn.{x}_proj.bias" for x in "qkv")) for i in every]
        self.q_norm = [maybe(i, "self_attn.q_norm.weight") for i in every]
        self.k_norm = [maybe(i, "self_attn.k_norm.weight") for i in every]
        self.out = [of(i, "self_attn.o_proj.weight") for i in every]
        self.gate_up = [of(i, "mlp.gate_proj.weight", "mlp.up_proj.weight") for i in every]
        self.down = [of(i, "mlp.down_proj.weight") for i in every]
        if left:
            raise LabError(f"The reference can't compute the weight {min(left)} of this model.", ANOTHER_MODEL)

        angle = torch.arange(self.context)[:, None] * frequencies(config, self.head_dim)  # [context, head_dim / 2]
        self.cos, self.sin = (x.repeat(1, 2).to(self.embedding) for x in (angle.cos(), angle.sin()))

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.bfloat16) -> "Llama":
        """Load a Hugging Face folder (config.json, model.safetensors, tokenizer.json) onto torch's default device."""
        from transformers import AutoTokenizer

        torch.set_num_threads(min(torch.get_num_threads(), detect().cores))  # torch ignores CPU quotas
        device, stored = torch.get_default_device(), load_file(folder / "model.safetensors")
        weights = {name: tensor.to(device, dtype) for name, tensor in stored.items()}
        config = json.loads((folder / "config.json").read_text())
        config |= json.loads((folder / "generation_config.json").read_text())  # lists all tokens that end an answer
        return cls(config, weights, AutoTokenizer.from_pretrained(folder))

    def new_cache(self, sequences: int, tokens: int) -> KVCache:
        """An empty cache for `sequences` sequences of up to `tokens` tokens."""
        shape = (self.layers, sequences, self.kv_heads, tokens, self.head_dim)
        zeros = torch.zeros(shape, dtype=self.embedding.dtype)
        return KVCache(zeros, torch.zeros_like(zeros), torch.zeros(sequences, dtype=torch.long))

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def forward(
        self,
        ids: Tensor,
        cache: KVCache,
        counts: Tensor | None = None,
        every: bool = False,
        taps: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Append `ids` [B, T] to the cached sequences. Only the first `counts[b]` tokens of row b are real.

        Returns logits [B, vocabulary] for each sequence's last real token, or [B, T, vocabulary] if `every`. For each
        layer that is a key of `taps`, its input [B, T, hidden] is stored there; the key `layers` gets the output of
        the last layer. Raises ValueError if the cache has no room.
        """
        batch, steps = ids.shape
        counts = torch.full((batch,), steps) if counts is None else counts
        positions = cache.lengths[:, None] + torch.arange(steps)  # [B, T]
        span = int(positions.max()) + 1
        if span > cache.keys.shape[3]:
            raise ValueError(f"the cache has room for {cache.keys.shape[3]} tokens, but {span} are needed")
        mask = (torch.arange(span) <= positions[..., None])[:, None]  # [B, 1, T, span]
        cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        rows = torch.arange(batch)[:, None]

        def rotate(x: Tensor) -> Tensor:  # [B, T, heads, head_dim]; rotates halves, as Hugging Face stores them
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat([-b, a], -1) * sin

        x = self.embedding[ids]
        for i in range(self.layers):
            if taps is not None and i in taps:
                taps[i] = x
            h = F.rms_norm(x, (self.hidden,), self.attn_norm[i], self.eps)
            h = F.linear(h, self.qkv[i], self.qkv_bias[i]).view(batch, steps, -1, self.head_dim)
            q, k, v = h.split([self.heads, self.kv_heads, self.kv_heads], 2)
            if (q_norm := self.q_norm[i]) is not None:
                q = F.rms_norm(q, (self.head_dim,), q_norm, self.eps)
                k = F.rms_norm(k, (self.head_dim,), self.k_norm[i], self.eps)
            keys, values = cache.keys[i], cache.values[i]
            keys[rows, :, positions], values[rows, :, positions] = rotate(k), v
            h = F.scaled_dot_product_attention(
                rotate(q).transpose(1, 2),
                keys[:, :, :span],
                values[:, :, :span],
                attn_mask=mask,
                enable_gqa=True,
            )
            x = x + F.linear(h.transpose(1, 2).reshape(batch, steps, -1), self.out[i])
            h = F.rms_norm(x, (self.hidden,), self.mlp_norm[i], self.eps)
            gate, up = F.linear(h, self.gate_up[i]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, self.down[i])
        cache.lengths += counts
        if taps is not None and self.layers in taps:
            taps[self.layers] = x
        if not every:
            x = x[torch.arange(batch), counts - 1]
        return F.linear(F.rms_norm(x, (self.hidden,), self.norm, self.eps), self.output)

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int, stop_at_eos: bool = True) -> list[list[int]]:
        """Greedy continuations of a batch of prompts: `tokens` each, or up to an end token, which is left out."""
        counts = torch.tensor([len(p) for p in prompts])
        ids = torch.zeros(len(prompts), int(counts.max()), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        cache = self.new_cache(len(prompts), ids.shape[1] + tokens)
        chosen = [self.forward(ids, cache, counts).argmax(-1)]
        while len(chosen) < tokens:
            chosen.append(self.forward(chosen[-1][:, None], cache).argmax(-1))
        out: list[list[int]] = torch.stack(chosen, 1).tolist()
        return [list(takewhile(lambda t: not (stop_at_eos and t in self.ends), row)) for row in out]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a chat in the template that the model was trained on."""
        text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def architecture_fault(config: Mapping[str, Any]) -> str:
    """The reason why this module can't compute the model of a Hugging Face config.json; "" if it can."""
    names = config.get("architectures") or ["unknown"]
    if names[0] not in ARCHITECTURES:
        return f"its architecture is {names[0]}, but only {', '.join(ARCHITECTURES)} are supported"
    if (kind := rope(config)["rope_type"]) not in ("default", "llama3"):
        return f"its positions are scaled by {kind!r}, but the only supported scaling is 'llama3'"
    odd = config.get("use_sliding_window") or config.get("hidden_act") != "silu"
    return "it uses sliding-window attention, or an activation other than silu" if odd else ""


def rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of rotary positions. Newer config files keep them in one place, older ones in two."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = found.get("rope_theta") or config.get("rope_theta") or 10_000.0
    return {**found, "rope_theta": theta, "rope_type": found.get("rope_type") or found.get("type") or "default"}


def frequencies(config: Mapping[str, Any], head_dim: int) -> Tensor:
    """The angle by which each pair of a head's values turns per position. Llama 3.1 slows the slow pairs further."""
    settings = rope(config)
    frequency = float(settings["rope_theta"]) ** -(torch.arange(0, head_dim, 2).float() / head_dim)
    if settings["rope_type"] == "default":
        return frequency
    low, high = float(settings["low_freq_factor"]), float(settings["high_freq_factor"])
    turns = settings["original_max_position_embeddings"] * frequency / (2 * math.pi)  # within the trained context
    keep = ((turns - low) / (high - low)).clamp(
        0, 1
    )  # fast ones stay, slow ones are divided by the factor, those between are blended
    return frequency * (keep + (1 - keep) / float(settings["factor"]))


def greedy_gap(llama: Llama, messages: Sequence[Message], tokens: Sequence[int], ended: bool = False) -> list[float]:
    """For each of an engine's greedy `tokens`: log p(best) − log p(chosen), in nats; 0 where it chose the best.

    With `ended`, the engine ended its answer after them: one more gap is then that of the likeliest end token.
    Teacher-forced: the prompt and the engine's own tokens pass through the reference at once, so an early near-tie
    doesn't make all later tokens look wrong. Load `llama` in float32.
    """
    prompt = llama.prompt_ids(messages)
    ids = torch.tensor([[*prompt, *tokens]])
    logits = llama.forward(ids, llama.new_cache(1, ids.shape[1]), every=True)[0, len(prompt) - 1 :]
    logp = logits.float().log_softmax(-1)
    chosen = logp[: len(tokens)].gather(1, torch.tensor(tokens, dtype=torch.long)[:, None])[:, 0]
    if ended:
        chosen = torch.cat((chosen, logp[-1:, list(llama.ends)].amax(-1)))
    return [float(gap) for gap in logp.amax(-1)[: len(chosen)] - chosen]

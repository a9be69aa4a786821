"""The small model in plain torch: what every engine computes, on three screens.

A forward pass appends T new tokens to each of B sequences. Prefill, chunked prefill and decode are that
one function: prefill appends the whole prompt to an empty cache, decode appends one token. Sequences may
have different lengths; shorter ones are padded on the right, and since a query sees only cache positions
up to its own, padding is never seen and is overwritten by the next real token.

It is also the reference that engines are judged by. Greedy text of two correct engines differs: BF16
rounding decides near-ties differently. So `greedy_gap` asks, in float32 and fed with the engine's own
tokens, how far below the best token each chosen one lies. A correct BF16 engine stays within 0.5 nats at
every step and 0.005 on average (metrics.gap_fault); a wrong template, 4-bit weights or another model don't.

    llama = Llama.load(model.weights("hf"), torch.float32)
    worst = max(greedy_gap(llama, messages, tokens_of_the_engine))
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

Message = Mapping[str, str]


@dataclass
class KVCache:
    """Keys and values of B sequences, room for S tokens each."""

    keys: Tensor  # [layers, B, kv_heads, S, head_dim], rotated
    values: Tensor  # [layers, B, kv_heads, S, head_dim]
    lengths: Tensor  # [B]: tokens of each sequence that are really there


class Llama:
    """Weights and shape of a Llama-architecture model with tied embeddings."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Any) -> None:
        self.layers = int(config["num_hidden_layers"])
        self.heads, self.kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
        self.hidden, self.eps = int(config["hidden_size"]), float(config["rms_norm_eps"])
        self.head_dim = int(config.get("head_dim") or self.hidden // self.heads)
        self.context, self.eos = int(config["max_position_embeddings"]), int(config["eos_token_id"])
        self.tokenizer = tokenizer
        self.embedding = weights["model.embed_tokens.weight"]  # [vocabulary, hidden]; also the output layer
        self.norm = weights["model.norm.weight"]

        def of(layer: int, *names: str) -> Tensor:
            return torch.cat([weights[f"model.layers.{layer}.{n}.weight"] for n in names]).contiguous()

        every = range(self.layers)
        self.attn_norm = [of(i, "input_layernorm") for i in every]
        self.mlp_norm = [of(i, "post_attention_layernorm") for i in every]
        # One matrix product instead of three, and one instead of two.
        self.qkv = [of(i, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj") for i in every]
        self.out = [of(i, "self_attn.o_proj") for i in every]
        self.gate_up = [of(i, "mlp.gate_proj", "mlp.up_proj") for i in every]
        self.down = [of(i, "mlp.down_proj") for i in every]

        frequency = float(config["rope_theta"]) ** -(torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angle = torch.arange(self.context)[:, None] * frequency[None]  # [context, head_dim / 2]
        dtype = self.embedding.dtype
        self.cos, self.sin = angle.cos().repeat(1, 2).to(dtype), angle.sin().repeat(1, 2).to(dtype)

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.bfloat16) -> "Llama":
        """From a Hugging Face folder: config.json, model.safetensors, tokenizer.json with its template."""
        from transformers import AutoTokenizer

        weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
        return cls(json.loads((folder / "config.json").read_text()), weights, AutoTokenizer.from_pretrained(folder))

    def new_cache(self, sequences: int, tokens: int) -> KVCache:
        """An empty cache for `sequences` sequences of up to `tokens` tokens."""
        shape = (self.layers, sequences, self.kv_heads, tokens, self.head_dim)
        zeros = torch.zeros(shape, dtype=self.embedding.dtype)
        return KVCache(zeros, torch.zeros_like(zeros), torch.zeros(sequences, dtype=torch.long))

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def forward(self, ids: Tensor, cache: KVCache, counts: Tensor | None = None, every: bool = False) -> Tensor:
        """Append `ids` [B, T] to the cached sequences; of row b only the first `counts[b]` are real.

        Returns logits [B, vocabulary] for each sequence's last real token, or [B, T, vocabulary] if `every`.
        Raises ValueError if the cache has no room.
        """
        batch, steps = ids.shape
        counts = torch.full((batch,), steps) if counts is None else counts
        positions = cache.lengths[:, None] + torch.arange(steps)  # [B, T]
        span = int(positions.max()) + 1
        if span > cache.keys.shape[3]:
            raise ValueError(f"the cache has room for {cache.keys.shape[3]} tokens, {span} are needed")
        mask = (torch.arange(span) <= positions[..., None])[:, None]  # [B, 1, T, span]
        cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        rows = torch.arange(batch)[:, None]

        def rotate(x: Tensor) -> Tensor:  # [B, T, heads, head_dim]; halves, as Hugging Face stores them
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat([-b, a], -1) * sin

        x = self.embedding[ids]
        for i in range(self.layers):
            h = F.rms_norm(x, (self.hidden,), self.attn_norm[i], self.eps)
            h = F.linear(h, self.qkv[i]).view(batch, steps, -1, self.head_dim)
            q, k, v = h.split([self.heads, self.kv_heads, self.kv_heads], 2)
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
        if not every:
            x = x[torch.arange(batch), counts - 1]
        return F.linear(F.rms_norm(x, (self.hidden,), self.norm, self.eps), self.embedding)

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int, stop_at_eos: bool = True) -> list[list[int]]:
        """Greedy continuations of a batch of prompts, `tokens` each or up to (without) the end token."""
        counts = torch.tensor([len(p) for p in prompts])
        ids = torch.zeros(len(prompts), int(counts.max()), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        cache = self.new_cache(len(prompts), ids.shape[1] + tokens)
        chosen = [self.forward(ids, cache, counts).argmax(-1)]
        while len(chosen) < tokens:
            chosen.append(self.forward(chosen[-1][:, None], cache).argmax(-1))
        out: list[list[int]] = torch.stack(chosen, 1).tolist()
        return [row[: row.index(self.eos)] if stop_at_eos and self.eos in row else row for row in out]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The chat as the model was trained to see it: the template's text, then its tokens."""
        text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def greedy_gap(llama: Llama, messages: Sequence[Message], tokens: Sequence[int]) -> list[float]:
    """For each of an engine's greedy `tokens`: log p(best) − log p(chosen), in nats, 0 where it chose the best.

    Teacher-forced: the prompt and the engine's own tokens go through the reference in one pass, so that one
    early near-tie doesn't make everything after it look wrong. Load `llama` in float32.
    """
    prompt = llama.prompt_ids(messages)
    ids = torch.tensor([[*prompt, *tokens]])
    logits = llama.forward(ids[:, :-1], llama.new_cache(1, ids.shape[1]), every=True)[0, len(prompt) - 1 :]
    logp = logits.float().log_softmax(-1)
    chosen = logp.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return [float(gap) for gap in logp.amax(-1) - chosen]

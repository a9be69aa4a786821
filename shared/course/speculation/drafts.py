"""The small model as a target, and its EAGLE-3 head as a proposer, both in plain torch.

The head needs two things from the target: the inputs of three of its layers at every verified position (`features`),
and its embedding. How its guesses follow from each other is in eagle3/head.py.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.course.speculation.draft_and_verify import (
    Answer,
    Array,
    Chance,
    Dice,
    NgramProposer,
    Proposer,
    Rules,
    Step,
    generate,
    one_hot,
)
from shared.course.speculation.eagle3.head import Eagle3Head
from shared.course.speculation.eagle3.target_states import aux_layers
from shared.errors import LabError
from shared.models.llama import Llama
from shared.report.table import Table


class LlamaTarget:
    """A target over the reference model in torch, with the KV cache of one sequence.

    A query sees only cache positions up to its own, and each pass writes from position `length` on. So a roll-back
    changes nothing but `length`: what lies behind it is overwritten before it is seen.
    """

    def __init__(self, llama: Llama, room: int, temperature: float = 0.0) -> None:
        """room: tokens of prompt and answer. temperature: 0 is greedy. Raises LabError beyond the model's context."""
        if room > llama.context:
            raise LabError(
                f"The model has a context of {llama.context} tokens, and {room} are asked for.", "ask for fewer tokens"
            )
        self.llama, self.room, self.temperature = llama, room, temperature
        self.cache = llama.new_cache(1, room)
        self.features = torch.zeros(room, 3 * llama.hidden)  # of each position: what an EAGLE-3 head fuses

    @property
    def length(self) -> int:
        return int(self.cache.lengths[0])

    def prefill(self, tokens: Sequence[int]) -> None:
        if tokens:
            self._pass(tokens, every=False)

    def append(self, tokens: Sequence[int]) -> Array:
        return distributions(self._pass(tokens, every=True)[0], self.temperature)

    def roll_back(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} tokens and can't be rolled back to {length}")
        self.cache.lengths[0] = length

    def _pass(self, tokens: Sequence[int], every: bool) -> Tensor:
        taps = dict.fromkeys(aux_layers(self.llama.layers), torch.empty(0))
        begin = self.length
        logits = self.llama.forward(torch.tensor([list(tokens)]), self.cache, every=every, taps=taps)
        self.features[begin : self.length] = torch.cat(list(taps.values()), -1)[0].float()
        return logits


def distributions(logits: Tensor, temperature: float) -> Array:
    """The distribution of each row of logits [rows, vocabulary]. At temperature 0 the best token has all of it."""
    if temperature == 0:
        return one_hot(logits.argmax(-1).tolist(), logits.shape[-1])
    found: Array = (logits.float() / temperature).softmax(-1).numpy()
    return found


class EagleProposer:
    """Drafts a chain of tokens with an EAGLE-3 head.

    The head has one layer, and so a small KV cache of its own. Its entry at position i is made of the target's
    features of token i and of token i + 1. Entries of verified tokens stay; those of earlier guesses are dropped when
    the next draft begins.
    """

    def __init__(self, head: Eagle3Head, target: LlamaTarget, chance: Chance) -> None:
        self.head, self.target, self.chance = head, target, chance
        self.embedding = target.llama.embedding.float()
        shape = head.shape
        self.keys, self.values = (torch.zeros(1, shape.heads, target.room, shape.head_dim) for _ in range(2))
        self.seen: list[int] = []  # the verified tokens whose entries are in the cache, and the one behind them

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def propose(self, tokens: Sequence[int], k: int) -> tuple[list[int], Array]:
        vocabulary = len(self.embedding)
        if k < 1 or len(tokens) < 2:  # the first token of a text has no features before it
            return [], one_hot([], vocabulary)
        known = max(0, len(self.seen) - 1) if list(tokens[: len(self.seen)]) == self.seen else 0
        self.seen, verified = list(tokens), len(tokens) - 1
        h = self._pass(tokens[known + 1 :], self.head.fc(self.target.features[known:verified]), known)
        drafts: list[int] = []
        rows = np.zeros((k, vocabulary), np.float32)
        for guess in range(k):
            own = distributions(self.head.logits(h[-1:]), self.target.temperature)[0]
            rows[guess, self.head.draft_tokens.numpy()] = own
            drafts.append(int(self.head.draft_tokens[self.chance.pick(own)]))
            if guess < k - 1:  # the head's own output takes the place of features that don't exist yet
                h = self._pass(drafts[-1:], h[-1:], verified + guess)
        return drafts, rows

    def _pass(self, tokens: Sequence[int], g: Tensor, begin: int) -> Tensor:
        """The head's output [T, hidden] at positions begin, begin + 1, …, each made of g and of the token behind it."""
        positions = torch.arange(begin, begin + len(tokens))
        end, layer = begin + len(tokens), self.head.midlayer
        q, k, v = layer.qkv(self.embedding[list(tokens)][None], g[None], positions)
        self.keys[:, :, begin:end], self.values[:, :, begin:end] = k, v
        seen = torch.arange(end) <= positions[:, None]
        attended = F.scaled_dot_product_attention(q, self.keys[:, :, :end], self.values[:, :, :end], attn_mask=seen)
        h: Tensor = layer.finish(g[None], attended)[0]
        return h


def own_speculation(
    rules: Rules,
    llama: Llama,
    head: Eagle3Head,
    look_up: Callable[[Sequence[int], int], Sequence[int]],
    prompts: Mapping[str, Sequence[int]],
    tokens: int,
    k: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Greedy answers to the prompts (token ids by name), with the head and with n-gram look-up.

    Returns (values, raw). values: for "eagle3" and "ngram" the verifications and the drafted and accepted tokens, in
    total and by position, and how many of the texts equal the model's own. raw: the steps of each answer as
    [drafted, accepted], by draft and prompt. Load `llama` in float32: in BF16 a pass over several tokens rounds
    otherwise than passes over one, and near-ties come out differently.
    """
    vocabulary, chance = len(llama.embedding), Dice(0)
    plain = {name: llama.generate([prompt], tokens)[0] for name, prompt in prompts.items()}
    answers: dict[str, dict[str, Answer]] = {"eagle3": {}, "ngram": {}}
    for name, prompt in prompts.items():
        for draft, found in answers.items():
            target = LlamaTarget(llama, len(prompt) + tokens)
            proposer: Proposer = (
                EagleProposer(head, target, chance) if draft == "eagle3" else NgramProposer(look_up, vocabulary)
            )
            found[name] = generate(rules, target, proposer, prompt, tokens, k, chance, llama.ends)
    values = {draft: totals(list(found.values())) for draft, found in answers.items()}
    for draft, found in answers.items():
        values[draft]["texts_as_plain"] = sum(list(one.tokens) == plain[name] for name, one in found.items())
    raw = {
        draft: {name: [[step.drafted, step.accepted] for step in one.steps] for name, one in found.items()}
        for draft, found in answers.items()
    }
    text = next(iter(answers["eagle3"].values())).tokens
    return {"k": k, "texts": len(prompts), "a_text": llama.tokenizer.decode(text), **values}, raw


def totals(answers: Sequence[Answer]) -> dict[str, Any]:
    """The counters of several answers together, by the names that the engines' counters have."""
    together = Answer((), tuple(step for answer in answers for step in answer.steps))
    return {
        "verifications": together.verifications,
        "draft_tokens": together.draft_tokens,
        "accepted_draft_tokens": together.accepted_draft_tokens,
        "drafted_at": together.drafted_at,
        "accepted_at": together.accepted_at,
        "tokens_per_verification": 1 + together.accepted_draft_tokens / together.verifications,
    }


def against_formula(
    expected_tokens: Callable[[float, int], float], raw: Mapping[str, Mapping[str, Sequence[Sequence[int]]]], k: int
) -> dict[str, dict[str, Any]]:
    """Measured tokens per verification beside the formula's, for each draft of own_speculation's raw data.

    Only verifications of k drafts count. `alpha` is the share of accepted drafts among those that were reached: a
    draft behind a rejected one is not. `by_position` is the same for each position. A draft that never drafted k
    tokens is left out.
    """
    out = {}
    for draft, texts in raw.items():
        steps = [Step(*step) for one in texts.values() for step in one if step[0] == k]
        if not steps:
            continue
        reached = [sum(step.accepted >= place for step in steps) for place in range(k + 1)]  # [k]: all accepted
        alpha = sum(reached[1:]) / sum(reached[:-1])
        out[draft] = {
            "verifications": len(steps),
            "alpha": alpha,
            "by_position": [b / a if a else None for a, b in itertools.pairwise(reached)],
            "measured": 1 + sum(reached[1:]) / len(steps),
            "formula": float(expected_tokens(alpha, k)),
        }
    return out


def own_table(values: Mapping[str, Any]) -> Table:
    """The counters of own_speculation, one row a draft."""
    return Table(
        f"Your loop on {values['texts']} questions, at most {values['k']} drafts a step",
        (
            "draft",
            "verifications",
            "drafted",
            "accepted",
            "accepted at place 1, 2, …",
            "tokens per verification",
            "texts as without drafts",
        ),
        [
            (
                draft,
                str(one["verifications"]),
                str(one["draft_tokens"]),
                str(one["accepted_draft_tokens"]),
                " / ".join(map(str, one["accepted_at"])),
                f"{one['tokens_per_verification']:.2f}",
                f"{one['texts_as_plain']} of {values['texts']}",
            )
            for draft, one in values.items()
            if isinstance(one, Mapping)
        ],
    )


def formula_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """What against_formula found, one row a draft."""
    return Table(
        "Tokens per verification: measured, and from one acceptance rate for all positions",
        ("draft", "verifications", "α", "α at place 1, 2, …", "measured", "formula"),
        [
            (
                draft,
                str(one["verifications"]),
                f"{one['alpha']:.2f}",
                " / ".join("–" if a is None else f"{a:.2f}" for a in one["by_position"]),
                f"{one['measured']:.2f}",
                f"{one['formula']:.2f}",
            )
            for draft, one in found.items()
        ],
    )


POSITIONS = (1, 2, 3, 4, 5, 9, 17)


def pass_times(llama: Any, context_tokens: int = 64, repeats: int = 9) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The time of one pass of the model over several new tokens of one sequence, in torch.

    llama: a shared.models.llama.Llama. Values: {"ms": {positions: median}}; the raw data are all times in ms. The
    repeats are interleaved.
    """
    ids = torch.ones((1, max(POSITIONS)), dtype=torch.long)
    cache = llama.new_cache(1, context_tokens + max(POSITIONS))
    llama.forward(torch.ones((1, context_tokens), dtype=torch.long), cache)
    times: dict[str, list[float]] = {str(count): [] for count in POSITIONS}
    for repeat in range(repeats + 1):
        for count in POSITIONS:
            cache.lengths[:] = context_tokens
            began = time.perf_counter()
            llama.forward(ids[:, :count], cache, every=True)
            if repeat:  # the first touches its memory for the first time
                times[str(count)].append((time.perf_counter() - began) * 1e3)
    return {"ms": {count: median(found) for count, found in times.items()}, "dtype": str(llama.embedding.dtype)}, times

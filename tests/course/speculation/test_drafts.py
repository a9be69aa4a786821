"""The loop on real torch models: exact on a tiny one down every path, and the plain text on the small one."""

import itertools
import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from shared import LabError, paths
from shared.course.speculation import drafts
from shared.course.speculation.draft_and_verify import Answer, Chance, Dice, NgramProposer, generate
from shared.course.speculation.drafts import EagleProposer, LlamaTarget, against_formula
from shared.course.speculation.eagle3 import head_files
from shared.course.speculation.eagle3.head import Eagle3Head, HeadShape
from shared.course.speculation.eagle3.training_time_test import unroll
from shared.course.speculation.exactness import explore
from shared.load.prompts import chat
from shared.models.choice import ModelChoice
from shared.models.llama import Llama
from tests.course.speculation.test_draft_and_verify import RULES
from tests.wrong_answers.speculative_decoding import RIGHT

torch.set_num_threads(1)  # on tensors as small as most of these, a second thread only waits for the first
LOOK_UP = RIGHT["look_up"]


def small_llama(vocabulary: int) -> Llama:
    """A random model of eight layers."""
    torch.manual_seed(4)
    hidden, kv, mlp, layers = 32, 16, 48, 8
    shapes = {
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,), "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden), "mlp.down_proj": (hidden, mlp),
    }  # fmt: skip
    weights = {
        f"model.layers.{layer}.{name}.weight": torch.randn(shape) / shape[-1] ** 0.5
        for layer in range(layers)
        for name, shape in shapes.items()
    }
    weights["model.embed_tokens.weight"] = torch.randn(vocabulary, hidden)
    weights["model.norm.weight"] = torch.ones(hidden)
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu", "eos_token_id": 0,
    }  # fmt: skip
    return Llama(config, weights, None)


def random_head(vocabulary: int, known: range) -> Eagle3Head:
    torch.manual_seed(5)
    return Eagle3Head(
        HeadShape(
            hidden=32, intermediate=48, heads=4, kv_heads=2, head_dim=8,
            vocabulary=vocabulary, draft_vocabulary=len(known),
        ),
        known,
    )  # fmt: skip


def test_a_pass_over_many_tokens_is_many_passes_over_one() -> None:
    llama = small_llama(40)
    once, one_by_one = LlamaTarget(llama, 20, 0.8), LlamaTarget(llama, 20, 0.8)
    tokens = [3, 9, 30, 1, 7, 7]
    rows = np.concatenate([one_by_one.append([token]) for token in tokens])
    np.testing.assert_allclose(once.append(tokens), rows, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(once.features, one_by_one.features, rtol=1e-4, atol=1e-5)
    assert once.length == 6
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)


def test_nothing_is_left_of_tokens_that_were_rolled_back() -> None:
    llama = small_llama(40)
    target, fresh = LlamaTarget(llama, 20, 1.0), LlamaTarget(llama, 20, 1.0)
    target.append([3, 9, 30, 11, 12, 13])
    target.roll_back(2)
    fresh.prefill([3, 9])
    np.testing.assert_allclose(target.append([5, 6]), fresh.append([5, 6]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(target.features[:4], fresh.features[:4], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="holds 4 tokens and can't be rolled back to 5"):
        target.roll_back(5)


def test_a_room_beyond_the_models_context_is_refused() -> None:
    with pytest.raises(LabError, match="context of 64 tokens, and 65 are asked for"):
        LlamaTarget(small_llama(40), 65)


def test_the_head_drafts_what_its_training_unrolled() -> None:
    """Its small cache, over several drafts with rejections between them, gives what one pass over all gives."""
    llama, head = small_llama(40), random_head(40, range(5, 25))
    text = [3, 9, 30, 1, 7, 22, 8, 8, 19, 4, 2, 39]
    target = LlamaTarget(llama, 30, 0.7)
    proposer = EagleProposer(head, target, Dice(1))
    target.prefill(text[:3])
    for verified in (4, 5, 7, 8, 12):  # tokens known when a draft begins; the last of them is not in the cache
        target.prefill(text[target.length : verified - 1])
        guesses, q = proposer.propose(text[:verified], 3)
        ids = torch.tensor([[*text[:verified], *guesses, 0]])
        features = torch.zeros(1, ids.shape[1], 96)
        features[0, : verified - 1] = target.features[: verified - 1]
        with torch.inference_mode():
            outputs = list(unroll(head, llama.embedding, ids, features, 3))
            rows = [(head.logits(h[0, verified - 2]) / 0.7).softmax(-1) for h in outputs]
        for step, own in enumerate(rows):
            np.testing.assert_allclose(q[step][5:25], own.numpy(), rtol=1e-3, atol=1e-6)
            assert q[step][:5].sum() == q[step][25:].sum() == 0
            assert q[step][guesses[step]] > 0
        target.append([text[verified - 1], *guesses])  # as the loop does: rejected ones must leave nothing behind
        target.roll_back(verified)


def test_a_head_begins_anew_with_another_text() -> None:
    llama, head = small_llama(40), random_head(40, range(5, 25))
    one, other = [3, 9, 30, 1, 7], [3, 8, 8, 2]
    target, fresh = LlamaTarget(llama, 30, 0.7), LlamaTarget(llama, 30, 0.7)
    proposer = EagleProposer(head, target, Dice(1))
    target.prefill(one[:-1])
    proposer.propose(one, 2)
    target.roll_back(0)
    for each in (target, fresh):
        each.prefill(other[:-1])
    again, wanted = proposer.propose(other, 1)[1], EagleProposer(head, fresh, Dice(1)).propose(other, 1)[1]
    np.testing.assert_allclose(again, wanted, rtol=1e-4, atol=1e-6)


def test_nothing_is_drafted_where_nothing_can_be() -> None:
    llama, head = small_llama(40), random_head(40, range(5, 25))
    proposer = EagleProposer(head, LlamaTarget(llama, 30), Dice(1))
    for tokens, k in (([3, 9, 30], 0), ([3], 2)):
        guesses, q = proposer.propose(tokens, k)
        assert guesses == []
        assert q.shape == (0, 40)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_on_a_tiny_model_all_paths_sum_to_its_own_distribution(temperature: float) -> None:
    """Every path of the loop with target and head in torch, on three tokens, of which the head knows two."""
    llama, head, prompt, tokens = small_llama(3), random_head(3, range(1, 3)), [2, 0, 1], 3

    def run(chance: Chance) -> Answer:
        target = LlamaTarget(llama, len(prompt) + tokens, temperature)
        return generate(RULES, target, EagleProposer(head, target, chance), prompt, tokens, 2, chance)

    summed: Counter[tuple[int, ...]] = Counter()
    for answer, probability in explore(run):
        summed[answer.tokens] += probability  # type: ignore[assignment]
    for text in itertools.product(range(3), repeat=tokens):
        target = LlamaTarget(llama, len(prompt) + tokens, temperature)
        rows = target.append([*prompt, *text])[len(prompt) - 1 :]
        expected = math.prod(float(rows[place][token]) for place, token in enumerate(text))
        assert summed[text] == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def llama(model: ModelChoice) -> Llama:
    return Llama.load(model.weights("hf"), torch.float32)


@pytest.fixture(scope="module")
def head(model: ModelChoice) -> Eagle3Head:
    config = json.loads((model.weights("hf") / "config.json").read_text())
    return head_files.load(paths.REPO / "environment" / "eagle3_head", config)


def test_the_small_models_text_is_the_plain_one_with_every_draft(
    llama: Llama, head: Eagle3Head, model: ModelChoice
) -> None:
    asked = {
        "why": llama.prompt_ids(chat(model, "Explain why the sea is salty.")),
        "again": [*llama.prompt_ids(chat(model, "Say it again."))] + 3 * llama.tokenizer.encode("one two three four. "),
    }
    values, raw = drafts.own_speculation(RULES, llama, head, LOOK_UP, asked, 20, 3)
    assert values["texts"] == 2
    for draft in ("eagle3", "ngram"):
        counted = values[draft]
        assert counted["texts_as_plain"] == 2
        assert counted["accepted_draft_tokens"] > 0
        assert counted["accepted_draft_tokens"] == sum(counted["accepted_at"])
        steps = [step for one in raw[draft].values() for step in one]
        assert counted["verifications"] == len(steps)
        assert counted["draft_tokens"] == sum(drafted for drafted, _ in steps)
        assert 20 < counted["accepted_draft_tokens"] + counted["verifications"] <= 40  # a text may end early
    table = drafts.own_table(values)
    assert [row[0] for row in table.rows] == ["eagle3", "ngram"]
    assert table.rows[0][-1] == "2 of 2"


def test_the_small_model_drafts_at_a_temperature(llama: Llama, head: Eagle3Head, model: ModelChoice) -> None:
    prompt = llama.prompt_ids(chat(model, "List three fruits."))

    def text(seed: int) -> Answer:
        chance, target = Dice(seed), LlamaTarget(llama, len(prompt) + 12, 1.0)
        return generate(RULES, target, EagleProposer(head, target, chance), prompt, 12, 2, chance)

    one = text(1)
    assert len(one.tokens) == 12
    assert one == text(1)
    assert one.tokens != text(2).tokens


def test_a_pattern_is_looked_up_without_any_model() -> None:
    tokens, k = [1, 2, 3, 4, 1, 2], 3
    assert NgramProposer(LOOK_UP, 9).propose(tokens, k)[0] == [3, 4, 1]


def test_the_formula_stands_beside_what_was_measured() -> None:
    raw: dict[str, Any] = {
        "eagle3": {"a": [[3, 3], [3, 1], [3, 0], [1, 1]], "b": [[3, 0], [0, 0]]},
        "ngram": {"a": [[0, 0], [2, 1]]},
    }
    found = against_formula(lambda alpha, k: sum(alpha**i for i in range(k + 1)), raw, 3)
    assert list(found) == ["eagle3"], "n-gram never drafted three tokens"
    one = found["eagle3"]
    assert one["verifications"] == 4  # those of three drafts
    assert one["measured"] == 1 + (3 + 1 + 0 + 0) / 4
    assert one["alpha"] == pytest.approx(4 / 7)  # reached: 4 first, 2 second, 1 third drafts
    assert one["by_position"] == [0.5, 0.5, 1.0]
    assert one["formula"] == pytest.approx(1 + 4 / 7 + (4 / 7) ** 2 + (4 / 7) ** 3)
    assert drafts.formula_table(found).rows[0][:2] == ("eagle3", "4")


def test_acceptance_that_is_the_same_everywhere_follows_the_formula() -> None:
    """With a draft that is right by chance, the formula and the measured tokens agree."""
    draw = np.random.default_rng(1)
    steps = []
    for _ in range(20_000):
        right = draw.random(4) < 0.6
        steps.append([4, int(right.cumprod().sum())])
    one = against_formula(lambda a, k: sum(a**i for i in range(k + 1)), {"eagle3": {"a": steps}}, 4)["eagle3"]
    assert one["alpha"] == pytest.approx(0.6, abs=0.01)
    assert one["measured"] == pytest.approx(one["formula"], rel=0.01)


class OneToken:
    """A stand-in for the reference model: each pass takes no time."""

    class Cache:
        def __init__(self) -> None:
            self.lengths = torch.zeros(1, dtype=torch.long)

    embedding = type("Embedding", (), {"dtype": "torch.float32"})

    def __init__(self) -> None:
        self.seen: list[int] = []

    def new_cache(self, sequences: int, tokens: int) -> Any:
        return self.Cache()

    def forward(self, ids: Any, cache: Any, every: bool = False) -> None:
        self.seen.append(ids.shape[1])


def test_passes_are_timed_in_turn() -> None:
    llama = OneToken()
    values, times = drafts.pass_times(llama, repeats=2)
    assert llama.seen == [64, *drafts.POSITIONS * 3]  # the prompt, one round that doesn't count, two that do
    assert {1, 4} <= set(drafts.POSITIONS)
    assert {len(found) for found in times.values()} == {2}
    assert values["ms"].keys() == times.keys()

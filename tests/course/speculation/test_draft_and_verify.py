"""The frame of the loop: chance is fair and strict, counters add up, and what can't work is refused at the start."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from shared import LabError
from shared.course.speculation.draft_and_verify import (
    Answer,
    Dice,
    NgramProposer,
    Rules,
    Step,
    checked_distribution,
    generate,
    one_hot,
)
from shared.course.speculation.exactness import PROMPT, VOCABULARY, ToyModel, ToyProposer, ToyTarget
from tests.wrong_answers.speculative_decoding import RIGHT

RULES = Rules(*(RIGHT[name] for name in ("accept_probability", "residual", "verify", "speculate")))


def answer(seed: int = 0, tokens: int = 12, k: int = 3, proposer: Any = None, **more: Any) -> Answer:
    chance, target = Dice(seed), ToyTarget(ToyModel(1), len(PROMPT) + tokens)
    return generate(RULES, target, proposer or ToyProposer(ToyModel(2), chance), PROMPT, tokens, k, chance, **more)


def test_each_step_adds_its_accepted_drafts_and_one_token() -> None:
    for seed in range(20):
        got = answer(seed)
        assert len(got.tokens) == 12 == got.verifications + got.accepted_draft_tokens
        assert got.draft_tokens == sum(got.drafted_at)
        assert got.accepted_draft_tokens == sum(got.accepted_at)
        assert all(a <= d for a, d in zip(got.accepted_at, got.drafted_at, strict=True))
        assert list(got.accepted_at) == sorted(got.accepted_at, reverse=True), "behind a rejected draft none counts"


def test_counters_by_position() -> None:
    got = Answer((), (Step(3, 2), Step(3, 0), Step(1, 1), Step(0, 0)))
    assert (got.verifications, got.draft_tokens, got.accepted_draft_tokens) == (4, 7, 3)
    assert (got.drafted_at, got.accepted_at) == ((3, 2, 2), (2, 1, 0))


def test_without_drafts_each_token_takes_a_pass() -> None:
    got = answer(proposer=NgramProposer(lambda tokens, k: [], VOCABULARY))
    assert (got.verifications, got.draft_tokens, got.drafted_at) == (12, 0, ())


def test_an_answer_ends_before_its_end_token_and_later_steps_do_not_count() -> None:
    whole = answer(3)
    end = whole.tokens[6]
    got = answer(3, ends=frozenset({end}))
    assert got.tokens == whole.tokens[: whole.tokens.index(end)]
    made = 0
    for step in got.steps:
        assert end not in whole.tokens[:made]
        made += step.accepted + 1
    assert end in whole.tokens[:made]


def test_an_answer_longer_than_the_cache_is_refused_before_the_first_pass() -> None:
    target = ToyTarget(ToyModel(1), len(PROMPT) + 5)
    with pytest.raises(
        LabError, match="4 tokens of the prompt and 6 of the answer don't fit into the target's room of 9"
    ):
        generate(RULES, target, ToyProposer(ToyModel(2), Dice(0)), PROMPT, 6, 3, Dice(0))
    assert target.length == 0


def test_a_draft_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(LabError, match="a vocabulary of 5 tokens, and the target has 3"):
        answer(proposer=NgramProposer(lambda tokens, k: [1][:k], 5))


def test_an_n_gram_is_certain_of_its_drafts() -> None:
    drafts, q = NgramProposer(lambda tokens, k: tokens[:k], 6).propose([4, 2, 5], 2)
    assert drafts == [4, 2]
    assert q.tolist() == [[0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0]]


def test_dice_draw_from_the_distribution() -> None:
    dice, wanted = Dice(7), np.array([0.5, 0, 0.3, 0.2])
    seen = Counter(dice.pick(wanted) for _ in range(20_000))
    assert set(seen) == {0, 2, 3}
    for token, count in seen.items():
        assert count / 20_000 == pytest.approx(wanted[token], abs=0.02)
    assert sum(dice.happens(0.3) for _ in range(20_000)) / 20_000 == pytest.approx(0.3, abs=0.02)
    assert all(dice.happens(1.0) and not dice.happens(0.0) for _ in range(100))


def test_dice_never_leave_the_vocabulary_though_float32_sums_to_less_than_one() -> None:
    class Last:
        def random(self) -> float:
            return 1 - 2**-53

    dice = Dice(0)
    dice.source = Last()  # type: ignore[assignment]
    assert dice.pick(np.full(3, 0.33333, np.float32)) == 2


@pytest.mark.parametrize("values", [[0.5, 0.2], [0.7, 0.4, -0.1], [float("nan"), 1.0], [[0.5, 0.5]]])
def test_what_is_no_distribution_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"these are no probabilities|one probability for each token"):
        Dice(0).pick(np.array(values))


def test_rounding_below_zero_is_no_negative_probability() -> None:
    assert Dice(1).pick(np.array([-1e-9, 1.0, 0.0])) == 1
    assert (checked_distribution(np.array([-1e-9, 1.0])) >= 0).all()


@pytest.mark.parametrize("value", [-0.1, 1.2, float("nan")])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="is not a probability"):
        Dice(0).happens(value)


def test_one_hot_of_no_tokens_still_has_the_vocabulary() -> None:
    assert one_hot([], 5).shape == (0, 5)

"""Decode time, speed-up, acceptance and steps, from recorded loads; the chi-square test of two samples."""

import random

import pytest

from shared import results
from shared.course import labs
from shared.course.speculation import speedups
from shared.course.speculation.speedups import Setting
from shared.engines import ENGINES, Draft
from shared.engines.draft_counts import draft_counts
from tests.helpers.speculation import ACCEPTED_AT, MadeUp

LAB = labs.OpenLab("3.3.4")
EAGLE = ("eagle3", 3)


def two_rounds(engine: str = "llamacpp") -> MadeUp:
    made_up = MadeUp()
    for number in (1, 2):
        made_up.speed(engine=engine, number=number)
        made_up.speed(EAGLE, engine=engine, number=number)
    return made_up


def test_speed_up_is_the_ratio_of_decode_times_in_the_same_round() -> None:
    made_up = two_rounds()
    found = speedups.of(LAB, "llamacpp", "eagle3", 3)
    assert found
    tokens = 1 + sum(ACCEPTED_AT[EAGLE])
    expected = tokens * made_up.step_ms(None, 1) / made_up.step_ms(EAGLE, 1)
    assert found.median == pytest.approx(expected, rel=1e-3)
    assert (found.decoding.n, found.verdict) == (2, "faster" if expected > 1 else "slower")
    assert found.tokens_per_step == pytest.approx(tokens, rel=1e-3)
    assert found.acceptance == pytest.approx(sum(ACCEPTED_AT[EAGLE]) / 3, rel=1e-3)
    assert abs(found.end_to_end.median - 1) < abs(found.median - 1)  # the prompt's pass isn't shortened


def test_a_round_counts_only_where_plain_decoding_had_it_too() -> None:
    made_up = two_rounds()
    made_up.speed(EAGLE, number=3)
    found = speedups.of(LAB, "llamacpp", "eagle3")
    assert found is not None
    assert found.decoding.n == 2
    assert speedups.of(LAB, "llamacpp", "eagle3", users=4) is None
    assert speedups.of(LAB, "llamacpp", "ngram") is None


def test_one_round_has_no_winner() -> None:
    made_up = MadeUp()
    made_up.speed()
    made_up.speed(EAGLE)
    found = speedups.of(LAB, "llamacpp", "eagle3")
    assert found is not None
    assert found.verdict == "no winner"


def test_the_fastest_length_is_named_if_none_is_asked_for() -> None:
    made_up = two_rounds()
    for number in (1, 2):
        made_up.speed(("eagle3", 8), number=number)
    every = [speedups.of(LAB, "llamacpp", "eagle3", k) for k in (3, 8)]
    best = speedups.of(LAB, "llamacpp", "eagle3")
    assert best is not None
    assert best.median == max(one.median for one in every if one)


def test_acceptance_by_position_is_over_verifications_and_none_where_it_is_not_counted() -> None:
    two_rounds()
    two_rounds("sglang")
    found = speedups.from_lab(LAB)
    assert found[Setting("llamacpp", "eagle3", 3)].accepted_at == pytest.approx(ACCEPTED_AT[EAGLE], rel=1e-3)
    sglang = found[Setting("sglang", "eagle3", 3)]
    assert sglang.accepted_at is None
    assert sglang.tokens_per_step == pytest.approx(1 + sum(ACCEPTED_AT[EAGLE]), rel=1e-3)
    assert found[Setting("llamacpp")].counts is None


def test_steps_without_a_draft_are_steps_too() -> None:
    counted = {"verifications": 10.0, "draft_tokens": 80.0, "accepted_draft_tokens": 40.0}
    setting = Setting("llamacpp", "ngram", 8)
    rounds = speedups.Rounds(setting)
    counts = draft_counts(ENGINES["llamacpp"], Draft("ngram", 8), counted)
    rounds.by_number[1] = speedups.Round(10.0, 1.0, 100, counts)
    # 10 verifications brought 50 tokens, and the other 50 took a plain step each
    assert rounds.steps == 60
    assert rounds.tokens_per_step == pytest.approx(100 / 60)
    assert rounds.step_ms == pytest.approx(1000 / 60)


def test_a_round_with_a_failed_request_is_left_out() -> None:
    two_rounds()
    key = "speed/llamacpp/eagle3-3/held-out-topics/users-1/temperature-0/round-2"
    entry = results.load_results("3.3.4")[key]
    failed = {**results.load_raw("3.3.4", key)[0], "error": "reset"}
    assert speedups.read({key: entry}, lambda _: [failed]) == {}


def sample(source: random.Random, weights: dict[str, float], size: int) -> list[str]:
    return source.choices(list(weights), list(weights.values()), k=size)


def test_samples_of_one_distribution_agree_and_of_two_differ() -> None:
    source = random.Random(3)
    same = {"a": 0.5, "b": 0.3, "c": 0.15, "rare": 0.03, "rarer": 0.02}
    other = {"a": 0.3, "b": 0.5, "c": 0.15, "rare": 0.03, "rarer": 0.02}
    agree = speedups.same_distribution(sample(source, same, 300), sample(source, same, 300))
    differ = speedups.same_distribution(sample(source, same, 300), sample(source, other, 300))
    assert agree is not None
    assert not agree.differs
    assert differ is not None
    assert differ.differs
    # a rate of false alarms near the stated one: none of 100 at 1 in 1000
    alarms = [speedups.same_distribution(sample(source, same, 200), sample(source, same, 200)) for _ in range(100)]
    assert sum(one.differs for one in alarms if one) <= 2


def test_rare_categories_are_pooled_so_that_each_expects_five() -> None:
    test = speedups.same_distribution(["a"] * 50 + list("bcdefgh"), ["a"] * 50 + list("ijklmno"))
    assert test is not None
    assert test.categories == 2
    assert speedups.same_distribution(list("abc"), list("abd")) is None
    assert speedups.same_distribution(["a"] * 50, ["a"] * 50) is None
    joined = speedups.same_distribution(["a"] * 50 + ["b"] * 50 + ["x"], ["a"] * 50 + ["b"] * 50)
    assert joined is not None
    assert joined.categories == 2


def test_first_tokens_are_held_against_plain_decoding_only() -> None:
    record = results.record
    pairs = [[1, 2]] * 60 + [[3, 4]] * 40
    assert speedups.first_tokens(LAB.results(), LAB.raw, "llamacpp") == {}
    record("3.3.4", "first-tokens/llamacpp/plain", {"answers": 100}, raw=pairs)
    record("3.3.4", "first-tokens/llamacpp/eagle3-2", {"answers": 100}, raw=pairs[::-1])
    record("3.3.4", "first-tokens/llamacpp/ngram-8", {"answers": 100}, raw=[[1, 2]] * 10 + [[3, 4]] * 90)
    found = speedups.first_tokens(LAB.results(), LAB.raw, "llamacpp")
    assert found.keys() == {"eagle3-2", "ngram-8"}
    same, other = (found[draft]["second token"] for draft in ("eagle3-2", "ngram-8"))
    assert same is not None
    assert other is not None
    assert (same.chi_square, other.differs) == (0, True)

"""Decode time, speed-up, acceptance and steps, from recorded loads."""

from dataclasses import dataclass

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


@dataclass
class Drifted(MadeUp):
    """A machine that takes `drift` times as long for everything."""

    drift: float = 1.0

    def step_ms(self, draft: tuple[str, int] | None, users: int) -> float:
        return self.drift * super().step_ms(draft, users)


def test_a_winner_is_clear_if_each_round_shows_it_however_much_the_machine_drifts() -> None:
    for number, drift in ((1, 1.0), (2, 1.5)):
        for draft in (None, EAGLE):
            Drifted(drift=drift).speed(draft, number=number)
    found = speedups.of(LAB, "llamacpp", "eagle3")
    assert found is not None
    assert (found.verdict, found.decoding.high < 1) == ("slower", True)


def test_rounds_that_contradict_each_other_have_no_winner() -> None:
    for number, slower in ((1, 1.0), (2, 0.5)):
        for draft in (None, EAGLE):
            MadeUp(slower={1: slower}).speed(draft, number=number)
    found = speedups.of(LAB, "llamacpp", "eagle3")
    assert found is not None
    assert found.decoding.low < 1 < found.decoding.high
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


def test_the_main_draft_follows_from_what_was_measured() -> None:
    def kinds(*drafts: str) -> list[Setting]:
        return [Setting("llamacpp", kind, 2) for kind in ("", *drafts)]

    assert speedups.main_kind(kinds("model", "eagle3", "ngram"), "llamacpp") == "eagle3"
    assert speedups.main_kind(kinds("ngram", "model"), "llamacpp") == "model"
    assert speedups.main_kind(kinds("ngram"), "llamacpp") == "ngram"
    assert speedups.main_kind(kinds(), "llamacpp") == speedups.main_kind(kinds("model"), "vllm") == "eagle3"

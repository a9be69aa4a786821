"""The cost model on a made-up machine that follows it, and on one that doesn't."""

import pytest

from shared.course import labs
from shared.course.speculation import choose, cost_model
from shared.course.speculation.speedups import HELD_OUT, Setting, from_lab
from shared.errors import LabError
from tests.helpers.speculation import ACCEPTED_AT, MadeUp

LAB = labs.OpenLab("3.3.4")


def test_it_finds_the_costs_of_the_machine() -> None:
    made_up = MadeUp(fixed_ms=1.5, draft_ms={"eagle3": 0.7, "ngram": 0.0, "model": 5.0})
    made_up.everything()
    model = cost_model.fit(LAB, "llamacpp")
    # the rounds drift by a thousandth, and 5 positions lie between the measured 4 and 16
    assert model.pass_ms(1) == pytest.approx(8.0, rel=0.01)
    assert model.pass_ms(5) == pytest.approx(20.0, rel=0.01)
    assert model.pass_ms(64) == pytest.approx(138.0, rel=0.01)  # beyond the largest, with the last slope
    assert model.fixed_ms == pytest.approx(1.5, abs=0.2)
    assert model.draft_ms == pytest.approx(0.7, abs=0.1)
    assert model.accepted_at == pytest.approx(ACCEPTED_AT["eagle3", 8], abs=1e-3)
    assert model.tokens(2) == pytest.approx(1.9, abs=1e-3)
    assert model.needed_tokens(1, 2) == pytest.approx(model.step_ms(1, 2) / model.pass_ms(1))


def test_it_is_tested_only_on_what_it_was_not_fitted_on() -> None:
    MadeUp().everything()
    found = from_lab(LAB)
    model = cost_model.fit(LAB, "llamacpp")
    rows = cost_model.tests(model, found)
    tested = {row.setting for row in rows}
    assert not tested & model.fitted_on
    assert Setting("llamacpp", "eagle3", 8) in model.fitted_on  # its acceptance
    assert {Setting("llamacpp", "eagle3", k) for k in (1, 2, 3)} <= tested
    assert Setting("llamacpp", "eagle3", 8, HELD_OUT, 16) in tested
    assert Setting("llamacpp", "eagle3", 2, temperature=0.7) in tested
    assert all(one.engine == "llamacpp" and one.kind == "eagle3" for one in tested)
    error = cost_model.error_of(rows)
    assert error is not None
    assert error.high < 2


def test_a_machine_that_does_not_follow_it_shows_in_the_error() -> None:
    MadeUp(slower={16: 1.5}).everything()
    rows = cost_model.tests(cost_model.fit(LAB, "llamacpp"), from_lab(LAB))
    at_16 = [row.error for row in rows if row.setting.users == 16]
    assert at_16
    assert all(error == pytest.approx(0.5, abs=0.03) for error in at_16)


def test_without_synthetic_acceptance_it_is_fitted_on_the_longest_draft_of_one_user() -> None:
    MadeUp().everything()
    model = cost_model.fit(LAB, "vllm")
    assert model.fixed_ms == 0
    assert 3 * model.draft_ms == pytest.approx(1.0 + 3 * 0.5, abs=0.2)
    tested = {row.setting.users for row in cost_model.tests(model, from_lab(LAB))}
    assert tested == {4, 16}


def test_without_a_head_it_is_fitted_to_the_small_model_in_its_place() -> None:
    made_up = MadeUp(main="model")
    made_up.everything()
    model = cost_model.fit(LAB, "llamacpp")
    assert model.kind == "model"
    assert model.draft_ms == pytest.approx(made_up.draft_ms["model"], abs=0.2)
    assert len(model.accepted_at) == 8
    found = from_lab(LAB)
    rows = cost_model.tests(model, found)
    assert {Setting("llamacpp", "model", k) for k in (1, 2, 3)} <= {row.setting for row in rows}
    assert {row.setting.kind for row in rows} == {"model"}
    assert max(abs(row.error) for row in rows) < 0.02
    assert {(row.users, row.k) for row in cost_model.break_even(LAB, "llamacpp")} == {
        (users, k) for users in (1, choose.many()) for k in (1, 4)
    }


def test_look_up_alone_has_no_cost_to_fit() -> None:
    made_up = MadeUp()
    for users in (1, 4):
        made_up.speed(users=users)
    made_up.speed(("ngram", 8))
    with pytest.raises(LabError, match="look-up only, which costs no pass"):
        cost_model.fit(LAB, "llamacpp")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(LabError, match="needs plain decoding at 1 and more users"):
        cost_model.fit(LAB, "llamacpp")
    MadeUp().everything()
    with pytest.raises(LabError, match="by position"):
        cost_model.fit(LAB, "sglang")
    with pytest.raises(LabError, match="measured for 8 drafts a step, not for 9"):
        cost_model.fit(LAB, "llamacpp").tokens(9)


def test_break_even_of_one_user_is_measured_and_of_many_predicted() -> None:
    made_up = MadeUp()
    made_up.everything()
    found = cost_model.break_even(LAB, "llamacpp")
    rows = {row.k: row for row in found if row.users == 1}
    assert rows.keys() == {1, 4}
    assert rows[4].step_ms == pytest.approx(made_up.step_ms(("eagle3", 4), 1), rel=0.01)
    assert rows[4].needed_tokens == pytest.approx(rows[4].step_ms / 8.0, rel=0.01)
    assert rows[4].made_tokens == pytest.approx(1 + 0.6 + 0.3 + 0.1 + 0.04, abs=1e-3)
    many = {(row.users, row.k): row for row in found if row.users > 1}
    assert many.keys() == {(choose.many(), 1), (choose.many(), 4)}
    model = cost_model.fit(LAB, "llamacpp")
    assert many[choose.many(), 4].needed_tokens == model.needed_tokens(choose.many(), 4) > rows[4].needed_tokens


def test_the_result_is_recorded_with_its_error() -> None:
    MadeUp().everything()
    values = cost_model.tested(LAB, "llamacpp")
    entry = LAB.results()["cost/llamacpp"]
    assert entry["values"] == values
    assert len(LAB.raw("cost/llamacpp")) == values["tested"] > 5
    assert values["error_percent"][0] < 2

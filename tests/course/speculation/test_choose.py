"""The open task: a choice is judged by its regret on the measured surface, and the naive one fails."""

from itertools import islice

import pytest

from shared.course import labs
from shared.course.speculation import choose
from shared.course.speculation.on_engines import drafts_here
from shared.course.speculation.on_engines.questions import HELD_OUT
from shared.course.speculation.speedups import from_lab
from shared.errors import LabError
from shared.hardware import Machine
from shared.models import ModelChoice
from tests.helpers.speculation import MadeUp

LAB = labs.OpenLab("3.3.4")


def test_traffics_are_drawn_and_always_the_same() -> None:
    drawn = choose.traffics()
    assert drawn == choose.traffics()
    assert drawn != choose.traffics(seed=1)
    assert {traffic.users for traffic in drawn} == {choose.FEW, choose.many()}
    assert all(0 <= traffic.copying_percent <= 100 for traffic in drawn)


def test_a_full_house_has_as_many_users_as_were_measured_on_whatever_machine_it_is_judged() -> None:
    made_up = MadeUp()
    for name in choose.names("eagle3"):
        kind, _, tokens = name.partition("-")
        for users in (choose.FEW, 24):
            for group in (HELD_OUT, choose.COPYING):
                made_up.speed(None if name == "plain" else (kind, int(tokens)), users=users, group=group)
    rows = choose.judged(from_lab(LAB), choose.best(LAB))
    assert [row.traffic.users for row in rows] == [1, 1, 24]
    assert "24 users, new text" in choose.surface(LAB).header


def test_the_best_choice_has_no_regret_and_the_naive_one_fails() -> None:
    MadeUp().everything()
    best = choose.best(LAB)
    found = from_lab(LAB)
    assert all(row.regret_percent == 0 for row in choose.judged(found, best))
    naive = choose.judged(found, dict.fromkeys(best, choose.NAIVE))
    assert {row.traffic.name: row.good for row in naive}["a full house"] is False
    assert "✘" in str(choose.naive(LAB).rows)


def test_the_naive_choice_is_named_by_what_it_stands_for() -> None:
    MadeUp().everything()
    assert {row[1] for row in choose.naive(LAB).rows} == {"eagle3-8"}
    assert choose.naive(LAB).title == "eagle3-8 for everyone"
    by_name = choose.judged(from_lab(LAB), dict.fromkeys(choose.best(LAB), "eagle3-8"))
    assert [str(row.regret_percent) for row in by_name] == [
        str(row.regret_percent) for row in choose.judged(from_lab(LAB), dict.fromkeys(choose.best(LAB), choose.NAIVE))
    ]


def test_without_a_head_the_options_are_lengths_of_a_small_model(
    spark: Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts_here, "detect", lambda: spark)
    offered = [drafts_here.name_of(one) for one in choose.options(spark_model)]
    assert offered == ["plain", "model-2", "model-8", "ngram-8"]
    MadeUp(main="model").everything()
    assert list(choose.measured_names(from_lab(LAB))) == offered == [row[0] for row in choose.surface(LAB).rows]
    assert set(choose.best(LAB).values()) <= set(offered)
    assert choose.naive(LAB).title == "model-8 for everyone"
    with pytest.raises(LabError, match="choose one of 'plain', 'model-2', 'model-8', 'ngram-8'"):
        choose.judged(from_lab(LAB), dict.fromkeys(choose.best(LAB), "eagle3-2"))


def test_with_look_up_alone_the_options_are_its_lengths() -> None:
    assert choose.names("ngram") == ("plain", "ngram-2", "ngram-8")


def test_time_per_token_is_weighted_by_the_share_of_copied_text() -> None:
    made_up = MadeUp()
    made_up.everything()
    found = from_lab(LAB)
    times = [choose.decode_ms(found, "ngram-8", choose.Traffic("", 1, percent)) for percent in (0, 25, 100)]
    assert None not in times
    new, quarter, copied = (one or 0 for one in times)
    assert quarter == pytest.approx(0.75 * new + 0.25 * copied)
    assert choose.decode_ms(found, "plain", choose.Traffic("", 1, 40)) == pytest.approx(made_up.pass_ms(1), rel=0.01)


def test_a_wrong_choice_and_a_missing_surface_are_refused() -> None:
    everyone = dict.fromkeys((traffic.name for traffic in choose.traffics()), "plain")
    with pytest.raises(LabError, match="surface lacks plain, eagle3-2"):
        choose.judged({}, everyone)
    with pytest.raises(LabError, match="The choice for “a full house” is 'eagle3-99'"):
        choose.judged({}, everyone | {"a full house": "eagle3-99"})


def test_a_choice_is_recorded() -> None:
    MadeUp().everything()
    mine = choose.best(LAB)
    table = choose.judge(LAB, mine)
    assert LAB.values("choice/mine") == {"choice": mine}
    assert [row[1] for row in table.rows] == list(mine.values())


def test_the_mixture_holds_the_traffics_share_of_copied_text(model: ModelChoice) -> None:
    for percent, expected in ((0, 0), (25, 5), (80, 16), (100, 20)):
        mixed = choose.Mixed("mixed", model, ("new",), copies=("copy",), copying_percent=percent)
        asked = [messages[-1]["content"] for messages in islice(mixed, 20)]
        assert asked.count("copy") == expected
        assert set(asked) <= {"new", "copy"}

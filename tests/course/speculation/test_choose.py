"""The open task: a choice is judged by its regret on the measured surface, and the naive one fails."""

from itertools import islice

import pytest

from shared.course import labs
from shared.course.speculation import choose
from shared.course.speculation.speedups import from_lab
from shared.errors import LabError
from shared.models import ModelChoice
from tests.helpers.speculation import MadeUp

LAB = labs.OpenLab("3.3.4")


def test_traffics_are_drawn_and_always_the_same() -> None:
    drawn = choose.traffics()
    assert drawn == choose.traffics()
    assert drawn != choose.traffics(seed=1)
    assert {traffic.users for traffic in drawn} == {choose.FEW, choose.MANY}
    assert all(0 <= traffic.copying_percent <= 100 for traffic in drawn)


def test_the_best_choice_has_no_regret_and_the_naive_one_fails() -> None:
    MadeUp().everything()
    best = choose.best(LAB)
    found = from_lab(LAB)
    assert all(row.regret_percent == 0 for row in choose.judged(found, best))
    naive = choose.judged(found, dict.fromkeys(best, choose.NAIVE))
    assert {row.traffic.name: row.good for row in naive}["a full house"] is False
    assert "✘" in str(choose.naive(LAB).rows)


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

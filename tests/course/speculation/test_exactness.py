"""The proof: right rules reproduce the target exactly, every broken one is noticed by the number meant for it."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shared.course.speculation import exactness
from shared.course.speculation.draft_and_verify import Chance
from shared.course.speculation.exactness import BROKEN, ToyModel, ToyTarget, explore, prove
from tests.course.speculation.test_draft_and_verify import RULES

EXACT = 1e-14  # sums of a few hundred products in float64


@pytest.fixture(scope="module")
def proof() -> tuple[dict[str, Any], dict[str, Any]]:
    return prove(RULES)


def test_all_paths_sum_to_the_targets_distribution(proof: tuple[dict[str, Any], dict[str, Any]]) -> None:
    values, raw = proof
    assert values["largest_difference"] < EXACT
    assert values["paths"] > 100
    assert len(raw["texts"]) == exactness.VOCABULARY**3
    for name in ("target", "summed"):
        assert sum(raw[name]) == pytest.approx(1, abs=EXACT)


def test_the_target_is_computed_without_the_loop(proof: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, raw = proof
    model = ToyModel(1)
    for text, expected in zip(raw["texts"], raw["target"], strict=True):
        target, product = ToyTarget(model, 99), 1.0
        target.prefill(exactness.PROMPT[:-1])
        last = exactness.PROMPT[-1]
        for token in text:
            product *= target.append([last])[0][token]
            last = token
        assert product == pytest.approx(expected, rel=1e-12)


def test_200_000_samples_agree_with_the_target(proof: tuple[dict[str, Any], dict[str, Any]]) -> None:
    values, raw = proof
    assert sum(raw["counts"]) == values["samples"] == 200_000
    assert min(raw["target"]) * values["samples"] > 5, "too few samples for a chi-square test"
    assert values["p_value"] > 1e-4
    assert values["degrees_of_freedom"] == len(raw["texts"]) - 1


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rules_are_noticed(name: str, proof: tuple[dict[str, Any], dict[str, Any]]) -> None:
    values, _ = prove(replace(RULES, **BROKEN[name]))
    if name == "no bonus token":  # the text stays right, but it takes more passes
        assert values["largest_difference"] < EXACT
        assert values["verifications"] > proof[0]["verifications"] + 0.3
    else:
        assert values["largest_difference"] > 0.01
        assert values["p_value"] < 1e-9


def test_a_proof_is_the_same_when_it_is_repeated(proof: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert prove(RULES) == proof
    assert prove(RULES, seed=1)[1]["counts"] != proof[1]["counts"]


def coin_and_die(chance: Chance) -> tuple[bool, int]:
    heads = chance.happens(0.25)
    return heads, chance.pick(np.array([0.5, 0.0, 0.5])) if heads else 7


def test_explore_follows_each_possible_path_once() -> None:
    assert sorted(explore(coin_and_die)) == [((False, 7), 0.75), ((True, 0), 0.125), ((True, 2), 0.125)]


def test_samples_divide_over_the_paths() -> None:
    totals: Counter[tuple[bool, int]] = Counter()
    for seed in range(50):
        found = dict(explore(coin_and_die, 1000, seed))
        assert sum(found.values()) == 1000
        totals.update(found)
    for outcome, probability in explore(coin_and_die):
        assert totals[outcome] / 50_000 == pytest.approx(probability, abs=0.01)
    assert len({tuple(sorted(explore(coin_and_die, 1000, seed))) for seed in range(9)}) > 5


def test_a_toy_model_depends_on_every_token_before() -> None:
    model = ToyModel(1)
    assert model.after([0, 1, 2]).tolist() == ToyModel(1).after([0, 1, 2]).tolist()
    others = [[1, 1, 2], [0, 2, 2], [0, 1, 1], [0, 1], [0, 0, 1, 2]]
    assert all(model.after(other).tolist() != model.after([0, 1, 2]).tolist() for other in others)


def test_the_tables_show_each_text_and_each_proof(proof: tuple[dict[str, Any], dict[str, Any]]) -> None:
    values, raw = proof
    table = exactness.table(values, raw)
    assert len(table.rows) == 27
    assert table.rows[0][0] == "0 0 0"
    summary = exactness.summary_table({"yours": values})
    assert summary.rows[0][0] == "yours"
    assert "26 degrees of freedom" in summary.rows[0][2]

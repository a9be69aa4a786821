"""The first tokens of a real engine: the chi-square test of two samples, and the control of that test."""

import random

from shared import results
from shared.course import labs
from shared.course.speculation.on_engines import first_tokens

LAB = labs.OpenLab("3.3.4")


def sample(source: random.Random, weights: dict[str, float], size: int) -> list[str]:
    return source.choices(list(weights), list(weights.values()), k=size)


def test_samples_of_one_distribution_agree_and_of_two_differ() -> None:
    source = random.Random(3)
    same = {"a": 0.5, "b": 0.3, "c": 0.15, "rare": 0.03, "rarer": 0.02}
    other = {"a": 0.3, "b": 0.5, "c": 0.15, "rare": 0.03, "rarer": 0.02}
    agree = first_tokens.same_distribution(sample(source, same, 300), sample(source, same, 300))
    differ = first_tokens.same_distribution(sample(source, same, 300), sample(source, other, 300))
    assert agree is not None
    assert not agree.differs
    assert differ is not None
    assert differ.differs
    # a rate of false alarms near the stated one: none of 100 at 1 in 1000
    alarms = [first_tokens.same_distribution(sample(source, same, 200), sample(source, same, 200)) for _ in range(100)]
    assert sum(one.differs for one in alarms if one) <= 2


def test_rare_categories_are_pooled_so_that_each_expects_five() -> None:
    test = first_tokens.same_distribution(["a"] * 50 + list("bcdefgh"), ["a"] * 50 + list("ijklmno"))
    assert test is not None
    assert test.categories == 2
    assert first_tokens.same_distribution(list("abc"), list("abd")) is None
    assert first_tokens.same_distribution(["a"] * 50, ["a"] * 50) is None
    joined = first_tokens.same_distribution(["a"] * 50 + ["b"] * 50 + ["x"], ["a"] * 50 + ["b"] * 50)
    assert joined is not None
    assert joined.categories == 2


def test_first_tokens_are_held_against_plain_decoding_only() -> None:
    record = results.record
    pairs = [[1, 2]] * 60 + [[3, 4]] * 40
    assert first_tokens.compared(LAB.results(), LAB.raw, "llamacpp") == {}
    record("3.3.4", "first-tokens/llamacpp/plain", {"answers": 100}, raw=pairs)
    record("3.3.4", "first-tokens/llamacpp/eagle3-2", {"answers": 100}, raw=pairs[::-1])
    record("3.3.4", "first-tokens/llamacpp/ngram-8", {"answers": 100}, raw=[[1, 2]] * 10 + [[3, 4]] * 90)
    found = first_tokens.compared(LAB.results(), LAB.raw, "llamacpp")
    assert found.keys() == {"eagle3-2", "ngram-8"}
    same, other = (found[draft]["second token"].test for draft in ("eagle3-2", "ngram-8"))
    assert same is not None
    assert other is not None
    assert (same.chi_square, other.differs) == (0, True)


def test_a_part_of_the_sample_becomes_the_likeliest_value() -> None:
    plain = ["a"] * 6 + ["b"] * 4
    found = ["b"] * 10
    for percent, expected in ((0, 0), (10, 1), (30, 3), (100, 10)):
        assert first_tokens.partly_greedy(found, plain, percent).count("a") == expected
    assert first_tokens.partly_greedy(["a", "b"] * 5, plain, 50)[:2] == ["a", "a"]  # spread evenly: places 2, 4, …


def test_the_control_notices_greedy_answers_and_more_samples_notice_fewer_of_them() -> None:
    source = random.Random(1)
    weights = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}
    few, many = ((sample(source, weights, size), sample(source, weights, size)) for size in (100, 5000))
    for found, plain in (few, many):
        one = first_tokens.compare(found, plain)
        assert one.test is not None
        assert not one.test.differs
        assert one.noticed_percent is not None
        spoiled = first_tokens.partly_greedy(found, plain, one.noticed_percent)
        test = first_tokens.same_distribution(spoiled, plain)
        assert test is not None
        assert test.differs
    noticed = [first_tokens.compare(*both).noticed_percent for both in (few, many)]
    assert noticed[0] in range(20, 61, 10)
    assert noticed[1] == 10


def test_samples_that_show_nothing_have_no_control() -> None:
    few = first_tokens.compare(list("abcab"), list("abcba"))
    assert few.noticed_percent is None
    certain = first_tokens.compare(["a"] * 100, ["a"] * 100)  # as good as greedy anyway
    assert (certain.test, certain.noticed_percent) == (None, None)


def test_the_table_shows_the_control() -> None:
    source = random.Random(2)
    draw = {(1, 2): 0.4, (1, 3): 0.3, (2, 3): 0.2, (2, 4): 0.1}
    for draft in ("plain", "eagle3-2"):
        pairs = [list(one) for one in source.choices(list(draw), list(draw.values()), k=200)]
        results.record("3.3.4", f"first-tokens/llamacpp/{draft}", {"answers": 200}, raw=pairs)
    few = first_tokens.table(LAB, "llamacpp")
    assert few.header[-1] == "control: share of greedy answers that the test finds"
    assert all(row[-2] == "✔ no difference found" for row in few.rows)
    assert all(row[-1].startswith("✔ from ") for row in few.rows)
    results.record("3.3.4", "first-tokens/llamacpp/eagle3-2", {"answers": 200}, raw=[[2, 4]] * 200)
    assert all("another distribution" in row[-2] for row in first_tokens.table(LAB, "llamacpp").rows)

"""Exercises on one verification: whether a draft is accepted, what replaces a rejected one, and the whole step.

A step is random, so its test follows every path of its decisions (exactness.explore) and compares the probabilities of
all results with the right ones and with those of the common mistakes.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.course.exercise import Exercise, Function, Wrong, expect_each, same, short
from shared.course.speculation.draft_and_verify import Array, Chance
from shared.course.speculation.exactness import Branches, explore


def plain(f: Function) -> Function:
    """f, with arrays in its result as lists and NumPy's numbers as Python's."""

    @functools.wraps(f)
    def call(*arguments: Any) -> Any:
        got = f(*arguments)
        return got.tolist() if hasattr(got, "tolist") else got

    return call


def without_rounding(f: Function) -> Function:
    """f, which returns a distribution, with its nearly zero values as 0: p - q * min(1, p / q) leaves 1e-17 of them."""

    @functools.wraps(f)
    def call(*arguments: Any) -> Any:
        got = f(*arguments)
        if not isinstance(got, list):
            return got
        return [0.0 if isinstance(one, float) and abs(one) < 1e-12 else one for one in got]

    return call


def accepted(p: Array, q: Array, token: int) -> float:
    return min(1.0, float(p[token] / q[token]))


def rest(p: Array, q: Array) -> Array:
    above = (p - q).clip(min=0)
    found: Array = above / above.sum()
    return found


def accepting(f: Function) -> None:
    source = np.random.default_rng()
    inputs: list[tuple[Array, Array, int]] = []
    while len(inputs) < 4:  # for every other one the target finds the token likelier than the draft does
        p, q = source.dirichlet(np.full(5, 2.0), 2)
        token = int((p - q).argmin() if len(inputs) % 2 else (p - q).argmax())
        if token != p.argmax():  # otherwise greedy acceptance can't be told from a comparison of p and q
            inputs.append((p, q, token))
    inputs.append((p, np.eye(5)[2], 2))  # an n-gram is certain of its draft
    if any(isinstance(f(*case), bool | np.bool_) for case in inputs):
        raise Wrong("Return the probability itself, not a decision. The step draws the decision.")
    expect_each(
        plain(f),
        inputs,
        accepted,
        {
            "A probability is at most 1, but p / q is larger where the target finds the token likelier than the draft "
            "does.": lambda p, q, t: p[t] / q[t],
            "The ratio is upside down. Which of the two decides how often the token may appear in the text, and which "
            "how often it is proposed?": lambda p, q, t: min(1.0, q[t] / p[t]),
            "The ratio is upside down, and not limited to 1.": lambda p, q, t: q[t] / p[t],
            "That is the target's probability alone. A token that the draft rarely proposes must be accepted more "
            "often than one that it always proposes: q counts as well.": lambda p, q, t: p[t],
            "That is the draft's probability alone. The target decides: how likely is the token under p?": (
                lambda p, q, t: q[t]
            ),
            "That is the probability of a rejection.": lambda p, q, t: 1 - min(1.0, p[t] / q[t]),
            "That accepts always or never. Where p is smaller than q, some of the drafts must still be accepted: "
            "return a probability.": lambda p, q, t: float(p[t] >= q[t]),
            "That accepts only the target's most likely token. At temperatures above 0 the target writes others too.": (
                lambda p, q, t: float(t == p.argmax())
            ),
            "That is one number for each token of the vocabulary. Only the drafted token is asked for.": (
                lambda p, q, t: np.minimum(1, p / np.maximum(q, 1e-300)).tolist()
            ),
            "p[token] − q[token] is no probability: it is negative where the draft finds the token likelier.": (
                lambda p, q, t: p[t] - q[t]
            ),
            "The chance that both choose the token doesn't decide. How often is it proposed, and how often may it "
            "appear?": lambda p, q, t: p[t] * q[t],
        },
    )  # fmt: skip


def apart(source: np.random.Generator, vocabulary: int) -> tuple[Array, Array]:
    """p and q, of which the target's best token is not the one that the draft misses most."""
    while True:
        p, q = source.dirichlet(np.full(vocabulary, 1.5), 2)
        if p.argmax() != (p - q).argmax():
            return p, q


def replacing(f: Function) -> None:
    source = np.random.default_rng()
    inputs = [apart(source, 6) for _ in range(3)]
    inputs += [(p, np.eye(6)[int(q.argmin())]) for p, q in inputs]  # an n-gram is certain of its draft
    before = [(p.copy(), q.copy()) for p, q in inputs]

    def excluded(p: Array, q: Array) -> list[float]:
        others = np.where(np.arange(len(p)) == q.argmax(), 0, p)
        return list(others / others.sum())

    expect_each(
        without_rounding(plain(f)),
        inputs,
        lambda p, q: rest(p, q).tolist(),
        {
            "The values don't sum to 1. What must a distribution that a token is drawn from sum to?": lambda p, q: (
                (p - q).clip(min=0).tolist()
            ),
            "Some values are negative: for these tokens the draft already proposes more than the target wants. How "
            "much of them is still missing?": lambda p, q: (p - q).tolist(),
            "That is p − q upside down: it gives more to tokens that the draft proposes too often already.": (
                lambda p, q: rest(q, p).tolist()
            ),
            "That is the target's own distribution. Accepted drafts have delivered some of it already; drawn again, "
            "tokens that the draft likes become too frequent.": lambda p, q: p.tolist(),
            "That is greedy: all probability on the target's best token. Several tokens are too rare among the "
            "accepted drafts, and each needs its share.": lambda p, q: np.eye(len(p))[int(p.argmax())].tolist(),
            "That puts everything on one token. Every token with p above q needs its share.": lambda p, q: (
                np.eye(len(p))[int((p - q).argmax())].tolist()
            ),
            "A negative difference doesn't become positive: a token that is proposed too often needs nothing more. "
            "(That is what abs does.)": lambda p, q: (abs(p - q) / abs(p - q).sum()).tolist(),
            "That takes only the draft's favourite out of p. The draft proposes other tokens as well, so each of them "
            "has got a part already.": excluded,
            "A softmax of the difference gives every token a share, even those that the draft proposes too often.": (
                lambda p, q: (np.exp(p - q) / np.exp(p - q).sum()).tolist()
            ),
        },
    )  # fmt: skip
    for (p, q), (old_p, old_q) in zip(inputs, before, strict=True):
        f(p, q)
        if not (np.array_equal(p, old_p) and np.array_equal(q, old_q)):
            raise Wrong("p or q has changed: -= and out= write into the array that was given. Make a new one.")


def right_step(
    p: Array, q: Array, drafts: Sequence[int], accept: Function, residual: Function, chance: Chance
) -> list[int]:
    for place, token in enumerate(drafts):
        if not chance.happens(accept(p[place], q[place], token)):
            return [*drafts[:place], chance.pick(residual(p[place], q[place]))]
    return [*drafts, chance.pick(p[len(drafts)])]


def step(
    instead: Function | None = None,
    bonus: Function | None = None,
    row: int = 0,
    keep: int = 0,
    go_on: bool = False,
    inverted: bool = False,
    swapped: bool = False,
) -> Function:
    """A step with one mistake. `instead` and `bonus` give the list behind the accepted drafts."""

    def run(
        p: Array, q: Array, drafts: Sequence[int], accept: Function, residual: Function, chance: Chance
    ) -> list[int]:
        new: list[int] = []
        for place, token in enumerate(drafts):
            at = p[min(place + row, len(p) - 1)]
            asked = accept(q[place], at, token) if swapped else accept(at, q[place], token)
            if chance.happens(asked) != inverted:
                new.append(token)
            elif not go_on:
                kept = list(drafts[: max(0, place + keep)])
                return kept + (instead(at, q[place], chance) if instead else [chance.pick(residual(at, q[place]))])
        return new + (bonus(p, q, chance) if bonus else [chance.pick(p[-1])])

    return run


STEPS = {
    "When all drafts are accepted, the last row of p is still unused: it is the distribution behind the last draft. "
    "One more token can be drawn from it, the bonus token.": step(bonus=lambda p, q, chance: []),
    "After a rejection, the step must still add a token: without one, a step could add none at all, and the text would "
    "lack what the rejected draft stood for.": step(instead=lambda p, q, chance: []),
    "After a rejection yours draws from the target's distribution. Accepted drafts have delivered a part of it "
    "already: draw from residual(p[i], q[i]).": step(instead=lambda p, q, chance: [chance.pick(p)]),
    "After a rejection yours takes the target's best token. That is greedy: draw from residual(p[i], q[i]).": step(
        instead=lambda p, q, chance: [int(p.argmax())]
    ),
    "After a rejection yours takes the residual's most likely token. It is a distribution: draw from it.": step(
        instead=lambda p, q, chance: [int(rest(p, q).argmax())]
    ),
    "After a rejection yours draws from the draft's distribution. The token that replaces a draft comes from the "
    "residual.": step(instead=lambda p, q, chance: [chance.pick(q)]),
    "The bonus token comes from the draft's distribution. Which row of p belongs to it?": step(
        bonus=lambda p, q, chance: [chance.pick(q[-1] if len(q) else p[-1])]
    ),
    "The bonus token comes from the row of p in front of its own. Row i is the distribution of draft i; the bonus "
    "token stands behind the last draft.": step(bonus=lambda p, q, chance: [chance.pick(p[max(0, len(p) - 2)])]),
    "The bonus token is the target's most likely one. Draw it from the last row of p.": step(
        bonus=lambda p, q, chance: [int(p[-1].argmax())]
    ),
    "The rejected draft is still in the result. Only the drafts in front of it are accepted.": step(keep=1),
    "An accepted draft is missing: all drafts in front of the rejected one belong to the result.": step(keep=-1),
    "Yours goes on behind a rejected draft. Those that follow were drafted behind a token that is not in the text: "
    "they are dropped with it.": step(go_on=True),
    "Draft i is compared with row i + 1 of p. Row 0 is the target's distribution of the first draft.": step(row=1),
    "Yours keeps a draft when chance decides against it: happens(…) is True if it is accepted.": step(inverted=True),
    "p and q are exchanged in the call of accept_probability.": step(swapped=True),
}  # fmt: skip


def outcomes(run: Function, p: Array, q: Array, drafts: list[int]) -> tuple[dict[tuple[int, ...], float], bool]:
    """The probability of each result, and whether `chance` was asked at all."""
    asked = False

    def once(chance: Chance) -> tuple[int, ...]:
        nonlocal asked
        got = run(p, q, list(drafts), accepted, rest, chance)
        asked = asked or bool(isinstance(chance, Branches) and chance.made)
        if got is None:
            raise Wrong("Yours returned nothing. Is `return` missing?")
        try:
            return tuple(int(token) for token in got)
        except (TypeError, ValueError):
            raise Wrong(f"Return a list of tokens; yours returned {short(got)}.") from None

    found: Counter[tuple[int, ...]] = Counter()
    for result, probability in explore(once):
        found[result] += probability  # type: ignore[assignment]
    return dict(found), asked


def equal(one: dict[tuple[int, ...], float], other: dict[tuple[int, ...], float]) -> bool:
    return all(abs(one.get(result, 0) - other.get(result, 0)) < 1e-9 for result in {*one, *other})


def verifying(f: Function) -> None:
    source = np.random.default_rng()
    cases = []
    for k in (3, 2, 0):
        rows = [apart(source, 4) for _ in range(k + 1)]
        p, q = np.array([row for row, _ in rows]), np.array([row for _, row in rows[:k]]).reshape(k, 4)
        # Drafts that the target likes less than the draft does, so that each may be rejected, and all be accepted.
        cases.append((p, q, [int((q[i] - p[i]).argmax()) for i in range(k)]))
    followed = [outcomes(f, *case) for case in cases[:2]]
    if not any(asked for _, asked in followed):
        raise Wrong(
            "Yours never asked `chance`. Use chance.happens(probability) to decide whether a draft is accepted, "
            "and chance.pick(distribution) to draw a token, so that a proof can follow every decision."
        )
    got = [found for found, _ in followed]
    right = [outcomes(right_step, *case)[0] for case in cases]
    if not all(map(equal, got, right)):
        for hint, mistake in STEPS.items():
            if all(equal(found, outcomes(mistake, *case)[0]) for found, case in zip(got, cases, strict=False)):
                raise Wrong(hint)
    got.append(outcomes(f, *cases[2])[0])  # last, because without drafts a mistake such as q[-1] raises an error
    for found, wanted, (_, _, drafts) in zip(got, right, cases, strict=True):
        for result in {*found, *wanted}:
            if not same(round(found.get(result, 0.0), 9), round(wanted.get(result, 0.0), 9)):
                raise Wrong(
                    f"With the drafts {drafts}, the step should add {list(result)} with probability "
                    f"{wanted.get(result, 0):.4f}; yours does so with probability {found.get(result, 0):.4f}."
                )


EXERCISES = (
    Exercise(
        "accept_probability", "ex-accept-probability", 1, 3, 5,
        "A draft that the target finds at least as likely as the proposer does is always kept.",
        ("How often is the token proposed? How often may it appear in the text?",
         "If it is proposed twice as often as it may appear, half of the proposals must go.",
         "min(1, p[token] / q[token])."),
        accepting,
    ),
    Exercise(
        "residual", "ex-residual", 2, 3, 10,
        "Accepted drafts and the residual together make exactly p. That is the whole proof.",
        ("An accepted draft is token x with probability min(p[x], q[x]). How much of p[x] is still missing?",
         "Nothing is missing where q is larger than p. The rest must sum to 1.",
         "above = (p - q).clip(min=0), divided by its sum."),
        replacing,
    ),
    Exercise(
        "verify", "ex-verify", 3, 3, 15,
        "Each step adds at least one token of the target, so speculation needs no more passes than plain decoding.",
        ("Go through the drafts in order. What ends the walk?",
         "At the first rejection: the drafts in front of it, and one token from the residual of its row.",
         "Behind the loop all drafts are accepted: one further token comes from the last row of p."),
        verifying,
    ),
)  # fmt: skip

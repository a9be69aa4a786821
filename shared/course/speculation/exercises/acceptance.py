"""Exercises on one draft: the probability with which it is accepted, and what replaces a rejected one."""

import functools
from typing import Any

import numpy as np

from shared.course.exercise import Exercise, Function, Wrong, expect_each
from shared.course.speculation.draft_and_verify import Array


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


NEGATIVE = (
    "Some values are negative: for these tokens the draft already proposes more than the target wants. How much of "
    "them is still missing?"
)


def replacing(f: Function) -> None:
    source = np.random.default_rng()
    inputs = [apart(source, 6) for _ in range(3)]
    inputs += [(p, np.eye(6)[int(q.argmin())]) for p, q in inputs]  # an n-gram is certain of its draft
    inputs.append((np.eye(6)[1], np.eye(6)[4]))  # and a greedy target of its token: most values of both are 0
    before = [(p.copy(), q.copy()) for p, q in inputs]

    def excluded(p: Array, q: Array) -> list[float]:
        others = np.where(np.arange(len(p)) == q.argmax(), 0, p)
        return list(others / others.sum())

    got = [np.ravel(np.asarray(f(p.copy(), q.copy()), dtype=float)) for p, q in inputs[:-1]]
    if all((one < -1e-9).any() and not np.allclose(one, q - p) for one, (p, q) in zip(got, inputs[:-1], strict=True)):
        raise Wrong(NEGATIVE)
    with np.errstate(all="ignore"):
        last = np.ravel(np.asarray(f(*(one.copy() for one in inputs[-1])), dtype=float))
    if np.isnan(last).any() and not any(np.isnan(one).any() for one in got):
        raise Wrong(
            "Yours gives nan for a token that p and q both give 0: p / q divides 0 by 0. A greedy target and an n-gram "
            "give most tokens 0. q · min(1, p / q) is the smaller one of p and q, without a division."
        )
    expect_each(
        without_rounding(plain(f)),
        inputs,
        lambda p, q: rest(p, q).tolist(),
        {
            "The values don't sum to 1. What must a distribution that a token is drawn from sum to?": lambda p, q: (
                (p - q).clip(min=0).tolist()
            ),
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
)  # fmt: skip

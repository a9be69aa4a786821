"""Exercises on what speculation gains: tokens per verification, and the acceptance from which it pays."""

import random
from collections.abc import Callable

from shared.course.exercise import Exercise, Function, Wrong, expect, expect_each, short

CLOSE = 1e-3  # of an acceptance that is found by trying
Pass = Callable[[float], float]


def tokens(alpha: float, k: int) -> float:
    return sum(alpha**i for i in range(k + 1))


def expecting(f: Function) -> None:
    source = random.Random()
    inputs = [(source.uniform(0.2, 0.9), k) for k in (1, 2, 3, 5, 8)]
    expect_each(
        f,
        inputs,
        tokens,
        {
            "Each verification also adds a token of the target itself: after the accepted drafts comes the residual or "
            "the bonus token.": lambda a, k: tokens(a, k) - 1,
            "The term α^k is missing. With this probability all k drafts are accepted. The step then adds one token "
            "more than after k − 1 accepted drafts and a rejection.": lambda a, k: (
                tokens(a, k - 1)
            ),
            "That is one draft too many.": lambda a, k: tokens(a, k + 1),
            "That counts each draft with α. A draft counts only if all drafts before it are accepted as well.": (
                lambda a, k: 1 + a * k
            ),
            "That is the sum without end, for drafts of any length. Yours has k drafts.": lambda a, k: 1 / (1 - a),
            "That is the probability that all k drafts are accepted.": lambda a, k: a**k,
            "That counts only verifications in which all drafts are accepted. Those that accept some add tokens too.": (
                lambda a, k: 1 + k * a**k
            ),
            "That is how many drafts would be accepted if a rejection didn't end the walk.": lambda a, k: a * k,
        },
    )  # fmt: skip
    expect(f, (0.0, 4), 1, {"If no draft is ever accepted, a verification still adds a token of the target.": 0})
    expect(f, (0.5, 0), 1, {"Without drafts a pass adds one token, as in plain decoding.": 0})
    try:
        expect(f, (1.0, 4), 5, {"If all 4 drafts are accepted, the bonus token comes on top.": 4})
    except ZeroDivisionError:
        raise Wrong("With α = 1 yours divides by zero. All drafts are accepted then: what does a step add?") from None


def solved(needed: float, k: int, count: Function = tokens) -> float | None:
    """The acceptance at which a verification adds `needed` tokens."""
    if needed <= count(0.0, k):
        return 0.0
    if needed > count(1.0, k):
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle, k) < needed else (low, middle)
    return high


def paying(k: int, users: int, pass_ms: Pass, draft_ms: float) -> float | None:
    return solved((pass_ms(users * (k + 1)) + k * draft_ms) / pass_ms(users), k)


def near(got: object, right: float | None) -> bool:
    if right is None or got is None or isinstance(got, bool | str):
        return got is right
    try:
        return abs(float(got) - right) <= CLOSE  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


Case = tuple[int, int, Pass, float]
THRESHOLDS: dict[str, Callable[[int, int, Pass, float], float | None]] = {
    "The drafts cost nothing in yours: k of them are made before each verification.": lambda k, users, cost, draft: (
        solved(cost(users * (k + 1)) / cost(users), k)
    ),
    "Yours counts one draft. Each step makes k of them, one after the other.": lambda k, users, cost, draft: (
        solved((cost(users * (k + 1)) + draft) / cost(users), k)
    ),
    "The verification costs as much as a plain step in yours. It computes k + 1 tokens of each user.": (
        lambda k, users, cost, draft: solved((cost(users) + k * draft) / cost(users), k)
    ),
    "The verification computes the newest token and k drafts of each user: k + 1, not k.": (
        lambda k, users, cost, draft: solved((cost(users * k) + k * draft) / cost(users), k)
    ),
    "That is right for one user. With more, a plain step computes `users` tokens, and a verification k + 1 each.": (
        lambda k, users, cost, draft: solved((cost(k + 1) + k * draft) / cost(1), k)
    ),
    "In the verification each of the users has k + 1 tokens.": lambda k, users, cost, draft: (
        solved((cost(k + 1) + k * draft) / cost(users), k)
    ),
    "A plain step serves all users too: it costs pass_ms(users).": lambda k, users, cost, draft: (
        solved((cost(users * (k + 1)) + k * draft) / cost(1), k)
    ),
    "draft_ms is the time of one draft token of all users: don't multiply it by the users.": (
        lambda k, users, cost, draft: solved((cost(users * (k + 1)) + users * k * draft) / cost(users), k)
    ),
    "The token of the target itself is missing in what a verification adds.": lambda k, users, cost, draft: (
        solved((cost(users * (k + 1)) + k * draft) / cost(users), k, lambda a, k: tokens(a, k) - 1)
    ),
    "A draft counts only if all drafts before it are accepted: the tokens of a step don't grow as α × k.": (
        lambda k, users, cost, draft: solved(
            (cost(users * (k + 1)) + k * draft) / cost(users), k, lambda a, k: 1 + a * k
        )
    ),
    "That is how many tokens a step must add. Which α adds so many?": lambda k, users, cost, draft: (
        (cost(users * (k + 1)) + k * draft) / cost(users)
    ),
}  # fmt: skip


def machine(fixed: float, each: float) -> Pass:
    """A machine whose passes take a fixed time, and some more for each token beyond the first four."""
    return lambda tokens: fixed + each * max(0.0, tokens - 4) + 0.01 * tokens


def break_even(f: Function) -> None:
    source = random.Random()
    cases: list[Case] = []
    for k, users, each in ((3, 4, 0.35), (2, 2, 1.0), (4, 3, 0.5)):
        fixed = source.uniform(9.5, 10.5)
        cases.append((k, users, machine(fixed, each), source.uniform(0.9, 1.1)))
    got = [f(*case) for case in cases]
    right = [paying(*case) for case in cases]
    if not all(map(near, got, right)):
        for hint, mistake in THRESHOLDS.items():
            if all(near(one, mistake(*case)) for one, case in zip(got, cases, strict=True)):
                raise Wrong(hint)
        for one, wanted, (k, users, cost, draft) in zip(got, right, cases, strict=True):
            if not near(one, wanted):
                raise Wrong(
                    f"With k = {k}, {users} users, {draft:.2f} ms for a draft, {cost(users):.2f} ms for a plain step "
                    f"and {cost(users * (k + 1)):.2f} ms for a verification, the answer is {wanted:.3f}; yours "
                    f"returned {short(one)}."
                )
    dear = f(2, 16, lambda tokens: float(tokens), 4.0)
    if dear is not None:
        raise Wrong(
            "Here even α = 1 doesn't pay: a verification and its drafts take longer than k + 1 plain steps. Return "
            f"None then; yours returned {short(dear)}."
        )
    free = f(3, 1, lambda tokens: 10.0, 0.0)
    if not near(free, 0.0):
        raise Wrong(
            "Where drafts and further tokens cost nothing, speculation loses at no α: return 0; yours returned "
            f"{short(free)}."
        )
    edge = f(3, 1, lambda tokens: float(tokens), 0.0)
    if not near(edge, 1.0):
        raise Wrong(
            f"Where a step must add exactly k + 1 tokens, only α = 1 breaks even; yours returned {short(edge)}."
        )


EXERCISES = (
    Exercise(
        "expected_tokens", "ex-expected-tokens", 2, 3, 8,
        "Each further draft adds less than the one before it, so there is a best k.",
        ("With which probability does a step add its first token? Its second?",
         "The i-th draft is added if it and all before it are accepted: α to the power of i.",
         "1 + α + α² + … up to α to the power of k."),
        expecting,
    ),
    Exercise(
        "break_even", "ex-break-even", 3, 3, 15,
        "With more users, a verification's further tokens are no longer almost free: drafting needs more acceptance.",
        ("How long does a step take with drafts, and how long without? How many tokens must the longer one add?",
         "needed = (pass_ms(users * (k + 1)) + k * draft_ms) / pass_ms(users). Expected tokens grow with α from 1 to "
         "k + 1.",
         "Halve an interval: if the sum of α to the powers 0 … k is below `needed` in the middle, go on in the upper "
         "half."),
        break_even,
    ),
)  # fmt: skip

"""The exercise `verify`: one step, from its drafts to the tokens that it adds.

A step is random, so its test follows every path of its decisions (exactness.explore) and compares the probabilities of
all results with the right ones and with those of the common mistakes.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from shared.course.exercise import Exercise, Function, Wrong, same, short
from shared.course.speculation.draft_and_verify import Array, Chance
from shared.course.speculation.exactness import Branches, explore
from shared.course.speculation.exercises.acceptance import accepted, apart, rest


def step(
    instead: Function | None = None,
    bonus: Function | None = None,
    row: int = 0,
    keep: int = 0,
    goes_on: str = "",
    kept: Function = lambda probability, chance: chance.happens(probability),
    swapped: bool = False,
    bonus_too: bool = False,
) -> Function:
    """A step with these mistakes; without any it is right.

    `instead` and `bonus` give the list behind the accepted drafts.

    goes_on: "without" a rejected draft, or "with a substitute" in its place.
    """

    def run(
        p: Array, q: Array, drafts: Sequence[int], accept: Function, residual: Function, chance: Chance
    ) -> list[int]:
        new: list[int] = []
        for place, token in enumerate(drafts):
            at = p[min(place + row, len(p) - 1)]
            asked = accept(q[place], at, token) if swapped else accept(at, q[place], token)
            if kept(asked, chance):
                new.append(token)
            elif goes_on == "with a substitute":
                new.append(chance.pick(residual(at, q[place])))
            elif not goes_on:
                before = list(drafts[: max(0, place + keep)])
                added = instead(at, q[place], chance) if instead else [chance.pick(residual(at, q[place]))]
                return before + added + ([chance.pick(p[-1])] if bonus_too else [])
        return new + (bonus(p, q, chance) if bonus else [chance.pick(p[-1])])

    return run


right_step = step()
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
    "they are dropped with it.": step(goes_on="without"),
    "Yours replaces a rejected draft and goes on with the next one. That was drafted behind the rejected token, so the "
    "step ends with the replacement.": step(goes_on="with a substitute"),
    "Yours adds a bonus token after a rejection, too. The last row of p stands behind all drafts, so it counts only if "
    "all of them are accepted.": step(bonus_too=True),
    "Draft i is compared with row i + 1 of p. Row 0 is the target's distribution of the first draft.": step(row=1),
    "Yours keeps a draft when chance decides against it: happens(…) is True if it is accepted.": step(
        kept=lambda probability, chance: not chance.happens(probability)
    ),
    "Yours keeps each draft whose probability is at least one half. A draft is kept with its probability: "
    "chance.happens(probability) decides.": step(kept=lambda probability, chance: probability >= 0.5),
    "p and q are exchanged in the call of accept_probability.": step(swapped=True),
    "p and q are exchanged in the call of residual.": step(instead=lambda p, q, chance: [chance.pick(rest(q, p))]),
}  # fmt: skip


def outcomes(run: Function, p: Array, q: Array, drafts: list[int]) -> tuple[dict[tuple[int, ...], float], bool]:
    """The probability of each result, and whether `chance` was asked at all."""
    asked = False

    def once(chance: Chance) -> tuple[int, ...]:
        nonlocal asked
        given = p.copy(), q.copy(), list(drafts)
        got = run(*given, accepted, rest, chance)
        asked = asked or bool(isinstance(chance, Branches) and chance.made)
        if got is None:
            raise Wrong("Yours returned nothing. Is `return` missing?")
        if given[2] != drafts:
            raise Wrong("Yours changed the list of drafts that it was given. The loop still needs it: make a new list.")
        if not (np.array_equal(given[0], p) and np.array_equal(given[1], q)):
            raise Wrong("Yours wrote into p or q. Their owner still needs them: make a new array.")
        if isinstance(got, np.ndarray):
            raise Wrong("Return a list. The loop adds it to the text with +=, which is another operation for an array.")
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


def step_inputs(k: int) -> tuple[Array, Array, list[int]]:
    """p, q and k drafts that the target likes less than the draft does: each may be rejected, and all be accepted.

    The first is accepted with 0.3 to 0.5: a threshold of one half differs from accepting always, and a step that draws
    at random by itself gives other tokens in a second run.
    """
    source = np.random.default_rng()
    while True:
        rows = [apart(source, 4) for _ in range(k + 1)]
        p, q = np.array([row for row, _ in rows]), np.array([row for _, row in rows[:k]]).reshape(k, 4)
        drafts = [int((q[i] - p[i]).argmax()) for i in range(k)]
        if not k or 0.3 < accepted(p[0], q[0], drafts[0]) < 0.5:
            return p, q, drafts


def verifying(f: Function) -> None:
    cases = [step_inputs(k) for k in (3, 2, 0)]
    followed = [outcomes(f, *case) for case in cases[:2]]
    if not any(asked for _, asked in followed):
        raise Wrong(
            "Yours never asked `chance`. Use chance.happens(probability) to decide whether a draft is accepted, "
            "and chance.pick(distribution) to draw a token, so that a proof can follow every decision."
        )
    got = [found for found, _ in followed]
    again = ([outcomes(f, *case)[0] for case in cases[:2]] for _ in range(10))
    if any(not all(map(equal, got, one)) for one in again):
        raise Wrong(
            "Yours decides by something else than `chance`: the same decisions of chance gave other tokens in another "
            "run. A proof can follow only chance.happens(…) and chance.pick(…)."
        )
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


EXERCISE = Exercise(
    "verify", "ex-verify", 3, 3, 15,
    "Each step adds at least one token of the target, so speculation needs no more passes than plain decoding.",
    ("Go through the drafts in order. What ends the walk?",
     "At the first rejection: the drafts in front of it, and one token from the residual of its row.",
     "Behind the loop all drafts are accepted: one further token comes from the last row of p."),
    verifying,
)  # fmt: skip

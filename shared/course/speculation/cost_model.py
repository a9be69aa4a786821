"""What a step with drafts costs, what it brings, and so when speculation pays.

A step of b users with k drafts each is a pass of the model over b × (k + 1) positions, and k passes of the draft before
it:

    step_ms(b, k) = pass_ms(b × (k + 1)) + drafts_ms(b, k)
    speed-up(b, k) = tokens_per_step(k) × pass_ms(b) / step_ms(b, k)

pass_ms    The step-time model, in its measured form. A plain step of n users is a pass over n positions. A pass of one
           user over n positions reads the same weights and computes as many operations, so it takes about as long.
           (The overhead and the terms for bytes and operations are in shared.metrics.roofline. That model is a straight
           line in n. A processor's kernels have a bend, often between one position and two, and speculation works just
           there. So between the measured passes this model interpolates, and beyond the largest it goes on with the
           slope of the last two: bytes no longer grow, operations do.)
drafts_ms  fixed_ms + k × draft_ms for one user: what measured steps of one user take beyond the pass. For b users it
           grows as a pass of the model does: × pass_ms(b) / pass_ms(1).
tokens     1 + the sum of the shares of verifications that accepted draft 1, …, k, by position. They are measured at the
           longest draft and hold for shorter ones, because a draft's first tokens don't depend on its length.

On llama.cpp the costs are fitted on steps of which no draft is accepted (its synthetic acceptance), so they don't
depend on how good the drafts are. The model is then held against all settings that it wasn't fitted on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from shared.course.speculation.speedups import HELD_OUT, Rounds, Setting, from_lab, main_kind, speedup
from shared.errors import LabError
from shared.metrics.spread import Interval, interval

Found = Mapping[Setting, Rounds]


@dataclass(frozen=True)
class CostModel:
    """The costs of one engine on one machine with one kind of draft, and the acceptance of that draft."""

    engine: str
    kind: str  # of the draft: a head, or where the machine can't load one a small model
    passes_ms: Mapping[int, float]  # positions → ms
    fixed_ms: float  # of the drafts of a step, whatever their number
    draft_ms: float  # of each draft
    accepted_at: tuple[float, ...]  # for draft 1, 2, …: the share of verifications that accepted it
    fitted_on: frozenset[Setting]

    def pass_ms(self, positions: float) -> float:
        """A pass of the model over so many positions in all."""
        known = sorted(self.passes_ms)
        times = [self.passes_ms[n] for n in known]
        if positions <= known[-1]:
            return float(np.interp(positions, known, times))
        slope = (times[-1] - times[-2]) / (known[-1] - known[-2])
        return times[-1] + max(0.0, slope) * (positions - known[-1])

    def drafts_ms(self, users: int, k: int) -> float:
        """All drafts of one step."""
        return (self.fixed_ms + k * self.draft_ms) * self.pass_ms(users) / self.pass_ms(1)

    def step_ms(self, users: int, k: int) -> float:
        return self.pass_ms(users * (k + 1)) + self.drafts_ms(users, k)

    def tokens(self, k: int) -> float:
        """Tokens that a step with k drafts adds. Raises LabError for more drafts than were measured."""
        if k > len(self.accepted_at):
            raise LabError(
                f"Acceptance was measured for {len(self.accepted_at)} drafts a step, not for {k}.",
                "measure a longer draft, or ask for fewer drafts",
            )
        return 1 + sum(self.accepted_at[:k])

    def speedup(self, users: int, k: int, tokens: float | None = None) -> float:
        """Over plain decoding of so many users. tokens: a step's, where they are measured and not to be predicted."""
        return (self.tokens(k) if tokens is None else tokens) * self.pass_ms(users) / self.step_ms(users, k)

    def needed_tokens(self, users: int, k: int) -> float:
        """The tokens that a step must add to be as fast as plain decoding."""
        return self.step_ms(users, k) / self.pass_ms(users)


def fit(lab: Any, engine: str) -> CostModel:
    """Fit the costs of one engine to the lab's loads. Raises LabError, naming what to measure, if loads are missing.

    lab: an open lab, or an Evidence.
    """
    return fitted(from_lab(lab), from_lab(lab, "synthetic/"), engine)


def fitted(found: Found, synthetic: Found, engine: str) -> CostModel:
    """The same from loads that are read already.

    Fitted on: plain decoding of all numbers of users; the steps whose drafts were all rejected, or where there are none
    the load of one user with the longest draft; and the acceptance of that load.
    """
    plain = {s: r for s, r in found.items() if s.engine == engine and s == s.plain and usual(s)}
    passes = {setting.users: median(rounds.decode_ms) for setting, rounds in plain.items()}
    kind = main_kind(found, engine)
    if kind == "ngram":
        raise LabError(
            f"{engine} was measured with look-up only, which costs no pass, so there is no cost of a draft to fit.",
            "measure a head or a draft model, on a machine for which the catalogue names one",
        )
    drafted = [s for s in found if s.engine == engine and s.kind == kind and s.users == 1 and usual(s)]
    if len(passes) < 2 or 1 not in passes or not drafted:
        raise LabError(
            f"The cost model of {engine} needs plain decoding at 1 and more users, and a draft at 1 user.",
            "run the cells that measure this engine by draft length and by users",
        )
    longest = max(drafted, key=lambda setting: setting.k)
    accepted_at = found[longest].accepted_at
    if accepted_at is None:
        raise LabError(
            f"{engine} doesn't count accepted drafts by position, so the model has no acceptance.",
            "use llama.cpp or vLLM for the cost model",
        )
    model = CostModel(engine, kind, passes, 0.0, 0.0, tuple(accepted_at), frozenset(plain))
    rejected = {s: r for s, r in synthetic.items() if s.engine == engine and s.synthetic == 1 and s.kind == kind}
    costs = rejected or {longest: found[longest]}
    beyond = [(s.k, (rounds.step_ms or 0.0) - model.pass_ms(s.k + 1)) for s, rounds in costs.items()]
    fixed_ms, draft_ms = line(beyond)
    return CostModel(engine, kind, passes, fixed_ms, draft_ms, tuple(accepted_at), frozenset({*plain, *costs, longest}))


def usual(setting: Setting) -> bool:
    return setting.group == HELD_OUT and not setting.temperature and setting.synthetic is None


def line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """The non-negative (fixed, per draft) that fit (drafts, ms) best; with one point nothing is fixed."""
    from scipy.optimize import nnls  # takes most of a second to import

    ones = 1.0 if len({k for k, _ in points}) > 1 else 0.0
    best = nnls(np.array([[ones, k] for k, _ in points], float), np.array([ms for _, ms in points]))[0]
    return float(best[0]), float(best[1])


@dataclass(frozen=True)
class Tested:
    """One setting that the model wasn't fitted on: its speed-up as measured and as predicted."""

    setting: Setting
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """As a share of the measured speed-up."""
        return self.predicted / self.measured - 1


def tests(model: CostModel, found: Found) -> list[Tested]:
    """All loads with the same kind of draft on this engine that the model wasn't fitted on.

    For the questions on which its acceptance was measured, the tokens of a step are predicted. For other groups and
    temperatures they are taken from the load itself, because they are no matter of cost.
    """
    rows = []
    for setting in sorted(found, key=lambda one: (one.users, one.k, one.group, one.temperature)):
        mine = setting.engine == model.engine and setting.kind == model.kind and setting not in model.fitted_on
        measured = speedup(found, setting) if mine and setting.k <= len(model.accepted_at) else None
        if measured is not None:
            tokens = None if usual(setting) else measured.tokens_per_step
            rows.append(Tested(setting, measured.median, model.speedup(setting.users, setting.k, tokens)))
    return rows


def error_of(rows: Sequence[Tested]) -> Interval | None:
    """The median of the absolute errors in percent, and its interval; None without a tested setting."""
    return interval([100 * abs(row.error) for row in rows])


def tested(lab: Any, engine: str) -> dict[str, Any]:
    """Fit the model, hold it against the settings that it wasn't fitted on, and record both as cost/<engine>."""
    found = from_lab(lab)
    model = fitted(found, from_lab(lab, "synthetic/"), engine)
    rows = tests(model, found)
    error = error_of(rows)
    values = {
        "kind": model.kind,
        "passes_ms": {str(n): ms for n, ms in sorted(model.passes_ms.items())},
        "fixed_ms": model.fixed_ms,
        "draft_ms": model.draft_ms,
        "accepted_at": list(model.accepted_at),
        "tested": len(rows),
        "error_percent": None if error is None else [error.median, error.low, error.high],
    }
    raw = [[row.setting.draft, row.setting.group, row.setting.users, row.measured, row.predicted] for row in rows]
    lab.record(f"cost/{engine}", values, raw=raw)
    return values


@dataclass(frozen=True)
class BreakEven:
    """What a step with k drafts for so many users takes beside a plain step of theirs.

    For one user it is measured, on steps whose drafts were all rejected. For more users it is the cost model's.
    """

    users: int
    k: int
    step_ms: float
    plain_ms: float
    made_tokens: float | None  # a step's with real drafts, where their acceptance is known for k drafts

    @property
    def needed_tokens(self) -> float:
        """The tokens that a step must add to be as fast as plain decoding."""
        return self.step_ms / self.plain_ms


def break_even(lab: Any, engine: str) -> list[BreakEven]:
    """For each number of drafts with synthetic acceptance: the time of a step, and what real drafts bring.

    For one user, and for the most users with whom the engine was measured with drafts.
    """
    found, synthetic = from_lab(lab), from_lab(lab, "synthetic/")
    model = fitted(found, synthetic, engine)
    rows = []
    for setting, rounds in sorted(synthetic.items(), key=lambda one: one[0].k):
        if setting.engine == engine and setting.kind == model.kind and setting.synthetic == 1 and rounds.step_ms:
            known = setting.k <= len(model.accepted_at)
            tokens = model.tokens(setting.k) if known else None
            rows.append(BreakEven(1, setting.k, rounds.step_ms, model.pass_ms(1), tokens))
    most = max((s.users for s in found if s.engine == engine and s.kind == model.kind), default=1)
    if most > 1:
        rows += [
            BreakEven(most, one.k, model.step_ms(most, one.k), model.pass_ms(most), one.made_tokens) for one in rows
        ]
    return rows

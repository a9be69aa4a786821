"""Speed with and without drafts, read from the ledger.

- Decode time: milliseconds per token while answers flow, (last chunk − first chunk) / (tokens − 1), over all answers of
  a round together: the sum of the times by the sum of the tokens. Prefill and waiting are not in it. This is TPOT as in
  the other labs, but not the median of the answers, because acceptance differs between answers and its cost must not
  be hidden.
- Speed-up: decode time of plain decoding / decode time with drafts, both of the same round and so for the same
  questions. Over the rounds: the median with its interval (shared.metrics.spread).
- End to end: the same ratio of the time from sending a request to the end of its answer, per request. Drafts don't
  shorten the prompt's pass, so it is nearer to 1.
- A winner is named only if there are two rounds or more, and the interval of the speed-up doesn't contain 1.
- Step: one pass of the model that adds tokens to an answer. It verifies drafts, or is plain where there is no draft
  (look-up finds none, or the answer ends). So the steps of a round are its tokens, without the first of each answer,
  less the accepted drafts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from shared.course.speculation.on_engines.drafts_here import MAIN_KINDS
from shared.course.speculation.on_engines.questions import HELD_OUT as HELD_OUT
from shared.engines import ENGINES, Draft
from shared.engines.draft_counts import DraftCounts, draft_counts
from shared.load.client import Trace
from shared.metrics.spread import Interval, interval
from shared.results.reading import Entries

Raw = Callable[[str], Any]  # key → the raw data of that result: `lab.raw`, or an Evidence's


@dataclass(frozen=True)
class Setting:
    """What distinguishes one measured load from another, apart from its round."""

    engine: str
    kind: str = ""  # "" without drafts, else eagle3 | ngram | model
    k: int = 0  # drafts a step
    group: str = HELD_OUT
    users: int = 1
    temperature: float = 0
    synthetic: float | None = None  # llama.cpp's synthetic acceptance

    @property
    def draft(self) -> str:
        """ "plain", "eagle3-2"."""
        return f"{self.kind}-{self.k}" if self.kind else "plain"

    @property
    def plain(self) -> "Setting":
        """The same load without drafts."""
        return Setting(self.engine, group=self.group, users=self.users, temperature=self.temperature)


@dataclass(frozen=True)
class Round:
    """One round of one load."""

    decode_ms: float  # per token
    e2e_ms: float  # per request
    tokens: int  # without the first of each answer
    counts: DraftCounts | None  # None without drafts, and if the engine doesn't count them


@dataclass(frozen=True)
class Rounds:
    """All rounds of one load, by their number."""

    setting: Setting
    by_number: dict[int, Round] = field(default_factory=dict)

    @property
    def decode_ms(self) -> list[float]:
        return [one.decode_ms for _, one in sorted(self.by_number.items())]

    @property
    def counts(self) -> DraftCounts | None:
        """The engine's counters of all rounds together; None if a round has none."""
        found = [one.counts for one in self.by_number.values()]
        if not found or None in found:
            return None
        known = [one for one in found if one]
        at = [one.accepted_at for one in known if one.accepted_at is not None]
        together = tuple(map(sum, zip(*at, strict=True))) if len(at) == len(known) else None
        verifications, drafted, accepted = (
            sum(getattr(one, name) for one in known) for name in ("verifications", "drafted", "accepted")
        )
        return DraftCounts(verifications, drafted, accepted, together)

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.by_number.values())

    @property
    def steps(self) -> int | None:
        """Passes per sequence that added these tokens; None if the engine doesn't count accepted drafts."""
        return self.tokens - self.counts.accepted if self.counts else None

    @property
    def tokens_per_step(self) -> float | None:
        """With the steps that verified no draft."""
        return self.tokens / self.steps if self.steps else None

    @property
    def step_ms(self) -> float | None:
        """The time of one step: the median round's time per token × tokens per step."""
        return median(self.decode_ms) * self.tokens_per_step if self.tokens_per_step else None

    @property
    def accepted_at(self) -> list[float] | None:
        """For positions 1, 2, … of a draft: the share of verifications that accepted it, and all drafts before it.

        None if the engine doesn't count them by position.
        """
        counts = self.counts
        if counts is None or counts.accepted_at is None or not counts.verifications:
            return None
        return [accepted / counts.verifications for accepted in counts.accepted_at]


def setting_of(entry: Mapping[str, Any]) -> Setting:
    source = entry["provenance"]
    draft, load = source.get("draft") or {}, source["load"]
    return Setting(
        source["engine"],
        draft.get("kind", ""),
        draft.get("tokens", 0),
        source["prompts"],
        load["users"],
        load.get("temperature", 0),
        draft.get("synthetic_length"),
    )


def round_of(traces: Sequence[Trace], counted: Mapping[str, float], setting: Setting) -> Round | None:
    """The figures of one round, from its traces and from the growth of the counters; None if a request failed."""
    if any(t.error or len(t.chunks_ns) < 2 or (t.output_tokens or 0) < 2 for t in traces):
        return None
    tokens = sum((t.output_tokens or 0) - 1 for t in traces)
    flowed_ms = sum((t.chunks_ns[-1] - t.chunks_ns[0]) / 1e6 for t in traces)
    e2e_ms = sum(t.e2e_ms for t in traces) / len(traces)
    drafted = Draft(setting.kind, setting.k) if setting.kind else None
    counts = draft_counts(ENGINES[setting.engine], drafted, counted)
    return Round(flowed_ms / tokens, e2e_ms, tokens, counts)


def read(entries: Entries, raw: Raw, prefix: str = "speed/") -> dict[Setting, Rounds]:
    """All loads under this prefix. Rounds with a failed request are left out."""
    found: dict[Setting, Rounds] = {}
    for key, entry in sorted(entries.items()):
        if key.startswith(prefix) and "counted" in entry["values"]:
            setting = setting_of(entry)
            traces = [Trace.restore(one) for one in raw(key)]
            if one := round_of(traces, entry["values"]["counted"], setting):
                found.setdefault(setting, Rounds(setting)).by_number[int(key.rpartition("-")[2])] = one
    return found


@dataclass(frozen=True)
class Speedup:
    """Speed-up of one load over plain decoding of the same questions."""

    decoding: Interval
    end_to_end: Interval
    acceptance: float | None
    tokens_per_step: float | None

    @property
    def median(self) -> float:
        return self.decoding.median

    @property
    def verdict(self) -> str:
        """Which of the two won: neither, if the interval contains 1 or if there is only one round."""
        if self.decoding.n < 2 or self.decoding.low <= 1 <= self.decoding.high:
            return "no winner"
        return "faster" if self.median > 1 else "slower"

    def __str__(self) -> str:
        return str(self.decoding)


def percent(share: float | None) -> str:
    """0.47 → "47 %"; "–" for None."""
    return "–" if share is None else f"{100 * share:.0f} %"


def speedup(found: Mapping[Setting, Rounds], setting: Setting) -> Speedup | None:
    """The speed-up over all rounds that both have; None without such a round."""
    drafted, plain = found.get(setting), found.get(setting.plain)
    if drafted is None or plain is None:
        return None
    both = sorted(drafted.by_number.keys() & plain.by_number.keys())
    pairs = [(plain.by_number[number], drafted.by_number[number]) for number in both]
    decoding = interval([before.decode_ms / after.decode_ms for before, after in pairs])
    end_to_end = interval([before.e2e_ms / after.e2e_ms for before, after in pairs])
    if decoding is None or end_to_end is None:
        return None
    counts = drafted.counts
    return Speedup(decoding, end_to_end, counts.acceptance if counts else None, drafted.tokens_per_step)


def of(
    lab: Any,
    engine: str,
    kind: str,
    k: int | None = None,
    *,
    users: int = 1,
    group: str = HELD_OUT,
    temperature: float = 0,
) -> Speedup | None:
    """The speed-up of one draft on one engine; of the fastest k if none is named. None if it isn't measured.

    lab: an open lab, or an Evidence.
    """
    found = from_lab(lab)
    drafted = [
        one
        for setting in found
        if (setting.engine, setting.kind, setting.users, setting.group, setting.temperature)
        == (engine, kind, users, group, temperature)
        and k in (None, setting.k)
        and (one := speedup(found, setting))
    ]
    return max(drafted, key=lambda one: one.median, default=None)


def main_kind(found: Iterable[Setting], engine: str) -> str:
    """The kind of draft that the lab studies on this engine: a head, or what stands in for one where it was measured.

    It follows from the results alone, so that they are judged alike on every machine.
    """
    there = {setting.kind for setting in found if setting.engine == engine}
    return next((kind for kind in MAIN_KINDS if kind in there), MAIN_KINDS[0])


def from_lab(lab: Any, prefix: str = "speed/") -> dict[Setting, Rounds]:
    """The loads of an open lab or of an Evidence."""
    entries = lab.of(prefix) if hasattr(lab, "of") else lab.results()
    return read(entries, lab.raw, prefix)

"""What an engine counted about its drafts, in one form for all engines.

    counts = draft_counts(engine.spec, engine.draft, run.counted)
    counts.acceptance, counts.accepted_at

The counters themselves come from `shared.engines.http.counters`. Of two readings, give the differences.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.engines.spec import Draft, EngineSpec


@dataclass(frozen=True)
class DraftCounts:
    """Drafts of one load. A verification is a step of the model that checked drafts of one sequence."""

    verifications: int
    drafted: int
    accepted: int
    accepted_at: tuple[int, ...] | None  # verifications that accepted draft 0, 1, …; None if the engine doesn't count

    @property
    def acceptance(self) -> float | None:
        """The share of drafts that were accepted; None if nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def tokens_per_verification(self) -> float | None:
        """Tokens that one verification adds: its accepted drafts, and one of the model's own."""
        return 1 + self.accepted / self.verifications if self.verifications else None


def draft_counts(spec: EngineSpec, draft: Draft | None, counted: Mapping[str, float]) -> DraftCounts | None:
    """The drafts in these counters, or in their differences over a load. None without a draft or without counters.

    SGLang has totals only of verifications, generated tokens and finished requests. The first token of an answer comes
    from its prompt, and each verification adds one token of the model's own. What remains was accepted. Drafts that
    were accepted beyond the end of an answer are missing in this number, and SGLang drafts `draft.tokens` each time.
    """
    if draft is None or not counted:
        return None
    verifications = int(counted.get("verifications", 0))
    if "accepted_draft_tokens" in spec.counters:
        accepted, drafted = int(counted["accepted_draft_tokens"]), int(counted["draft_tokens"])
    elif "verifications" in spec.counters:
        accepted = int(counted["generated_tokens"] - counted["requests"]) - verifications
        drafted = verifications * draft.tokens
    else:
        return None
    at = tuple(int(counted.get(f"accepted_at_{i}", 0)) for i in range(draft.tokens))
    return DraftCounts(verifications, drafted, accepted, at if spec.accepted_at else None)

"""A made-up machine for tests of lab 3.3.4, whose times follow the cost model. They are test data."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import paths, results
from shared.course.speculation import choose
from shared.course.speculation.speedups import HELD_OUT
from shared.hardware import detect
from shared.load import Run, Trace
from shared.metrics import summarise
from tests.helpers.ledger import KEPT, MS, provenance

TOKENS = 10_000  # of each answer, after its first
Draft = tuple[str, int]  # kind, k
ACCEPTED_AT: Mapping[Draft, Sequence[float]] = {
    ("eagle3", 1): (0.6,),
    ("eagle3", 2): (0.6, 0.3),
    ("eagle3", 3): (0.6, 0.3, 0.1),
    ("eagle3", 8): (0.6, 0.3, 0.1, 0.04, 0.02, 0, 0, 0),
    ("ngram", 8): (0.1, 0.1, 0.08, 0.06, 0, 0, 0, 0),
    ("model", 3): (0.7, 0.5, 0.3),
}
# Of a small model that takes the head's place, and of look-up that does.
IN_PLACE_OF_A_HEAD: Mapping[Draft, Sequence[float]] = {
    ("model", 1): (0.7,),
    ("model", 2): (0.7, 0.5),
    ("model", 8): (0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0, 0),
    ("ngram", 2): (0.1, 0.1),
}
_made: dict[tuple[str, str, int], Path] = {}
COPIED = (0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.5, 0.4)


@dataclass
class MadeUp:
    """`pass_ms` is bent between one position and two, as kernels are. `main` is llama.cpp's main kind of draft."""

    main: str = "eagle3"
    fixed_ms: float = 1.0
    draft_ms: Mapping[str, float] = field(default_factory=lambda: {"eagle3": 0.5, "ngram": 0.0, "model": 5.0})
    slower: Mapping[int, float] = field(default_factory=dict)  # users → how many times longer a step with drafts takes

    @staticmethod
    def pass_ms(positions: int) -> float:
        return 8.0 if positions == 1 else 10.0 + 2.0 * positions

    def step_ms(self, draft: Draft | None, users: int) -> float:
        if draft is None:
            return self.pass_ms(users)
        kind, k = draft
        fixed = self.fixed_ms if kind == "eagle3" else 0.0
        drafts = (fixed + k * self.draft_ms[kind]) * self.pass_ms(users) / self.pass_ms(1)
        return (self.pass_ms(users * (k + 1)) + drafts) * self.slower.get(users, 1.0)

    def speed(
        self,
        draft: Draft | None = None,
        *,
        engine: str = "llamacpp",
        users: int = 1,
        number: int = 1,
        group: str = HELD_OUT,
        temperature: float = 0,
        accepted_at: Sequence[float] | None = None,
        synthetic: float | None = None,
        prefix: str = "speed",
    ) -> None:
        """Record one round of one load, a little slower from round to round."""
        known = {**ACCEPTED_AT, **IN_PLACE_OF_A_HEAD}
        at = accepted_at or (COPIED if group == choose.COPYING and draft else known.get(draft or ("", 0), ()))
        at = (at if synthetic is None else ())[: draft[1] if draft else 0]
        steps = int(TOKENS / (1 + sum(at)))
        accepted = [int(steps * share) for share in at]
        plain_steps = TOKENS - steps - sum(accepted)  # a few, from rounding
        flowed_ms = steps * self.step_ms(draft, users) + plain_steps * self.step_ms(None, users)
        flowed_ms *= 1 + number / 1000
        chunks_ns = (50 * MS, int((50 + flowed_ms) * MS))
        one = Trace(0, chunks_ns, ("x", "y"), chunks_ns[-1] + MS, 40, TOKENS + 1, 0, "length", None)
        counted = {"generated_tokens": float(users * (TOKENS + 1)), "requests": float(users)}
        source: dict[str, Any] = provenance(engine) | {"draft": None}
        if draft:
            source["draft"] = {"kind": draft[0], "tokens": draft[1]}
            source["draft"] |= {} if synthetic is None else {"synthetic_length": synthetic}
            counted["verifications"] = float(users * steps)
            if engine != "sglang":
                counted |= {"draft_tokens": float(users * steps * draft[1])}
                counted |= {"accepted_draft_tokens": float(users * sum(accepted))}
                counted |= {f"accepted_at_{place}": float(users * count) for place, count in enumerate(accepted)}
        load = {"kind": "closed", "about_cache": False, "users": users}
        load |= {"temperature": temperature} if temperature else {}
        run = Run((one,) * users, users, TOKENS + 1, group, source, 0.01, counted, load)
        name = f"{draft[0]}-{draft[1]}" if draft else "plain"
        name += f"/{group.replace(' ', '-')}/users-{users}/temperature-{temperature:g}"
        results.record("3.3.4", f"{prefix}/{engine}/{name}/round-{number}", summarise(run))

    def drafts(self) -> list[Draft]:
        """llama.cpp's on this machine."""
        known = {**ACCEPTED_AT, **IN_PLACE_OF_A_HEAD}
        return list(ACCEPTED_AT) if self.main == "eagle3" else [one for one in known if one[0] in (self.main, "ngram")]

    def everything(self, rounds: int = 2) -> None:
        """All loads of the lab. They are recorded once for each machine and copied afterwards."""
        made = (repr(self), detect().size, rounds)
        if made not in _made:
            self.record_all(rounds)
            _made[made] = Path(KEPT.name) / f"speculation-{len(_made)}"
            shutil.copytree(paths.results(), _made[made])
        shutil.copytree(_made[made], paths.results(), dirs_exist_ok=True)

    def record_all(self, rounds: int) -> None:
        for number in range(1, rounds + 1):
            for users in (1, 2, 4, 16, 32):
                self.speed(users=users, number=number)
            for draft in self.drafts():
                self.speed(draft, number=number)
            for name in choose.names(self.main):
                kind, _, tokens = name.partition("-")
                draft_ = None if name == "plain" else (kind, int(tokens))
                for users in (choose.FEW, choose.many()):
                    for group in (HELD_OUT, choose.COPYING):
                        self.speed(draft_, users=users, number=number, group=group)
            for k in (1, 4):
                self.speed((self.main, k), number=number, synthetic=1.0, prefix="synthetic")
            for engine in ("vllm", "sglang"):
                for users in (1, 4, 16):
                    self.speed(engine=engine, users=users, number=number)
                    self.speed(("eagle3", 3), engine=engine, users=users, number=number)
        self.speed(temperature=0.7)
        self.speed((self.main, 2), temperature=0.7)

"""Has this lab been done? Asked of the ledger, never of a notebook's variables.

    milestones.check("3.3.1")

Each claim is tested on what was recorded, shows its evidence, or says what is missing and which cell
makes it. Figures are computed again from the raw traces: a summary that doesn't follow from them counts
for nothing.
"""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shared import paths, results
from shared.client import Trace
from shared.engines import ENGINES
from shared.errors import LabError
from shared.load import Run
from shared.metrics import gap_fault, prompt_tokens, summarise
from shared.plots import rounds
from shared.prompts import OPENING_TOKENS
from shared.results import Entry

ENGINES_331 = ("ollama", "llamacpp", "vllm", "sglang")
USERS_331 = (1, 4, 16)

Entries = Mapping[str, Entry]


@dataclass(frozen=True)
class Claim:
    """One thing to be able to say: whether the ledger bears it out, by what, or what is missing."""

    text: str
    ok: bool
    evidence: str


@dataclass(frozen=True, repr=False)
class Milestone:
    """The last cell of a lab."""

    lab: str
    title: str
    claims: tuple[Claim, ...]

    @property
    def complete(self) -> bool:
        return all(claim.ok for claim in self.claims)

    def __repr__(self) -> str:
        lines = [f"{'✔' if c.ok else '✘'} {c.text}\n    {c.evidence}" for c in self.claims]
        return "\n".join([self.headline(), *lines])

    def headline(self) -> str:
        done = sum(c.ok for c in self.claims)
        return f"Milestone {self.lab}, {self.title}: {done} of {len(self.claims)} claims borne out"

    def _repr_html_(self) -> str:
        items = "".join(
            f"<tr><td>{'✔' if c.ok else '✘'}</td><td style='text-align:left'>{html.escape(c.text)}</td>"
            f"<td style='text-align:left'>{html.escape(c.evidence)}</td></tr>"
            for c in self.claims
        )
        return f"<b>{html.escape(self.headline())}</b><table>{items}</table>"


def check(lab: str) -> Milestone:
    """Test every claim of one lab against the ledger."""
    if lab not in LABS:
        raise LabError(f"There is no milestone for lab {lab!r}.", f"choose one of {', '.join(LABS)}")
    title, claims = LABS[lab]
    entries = results.load_results(lab)
    return Milestone(lab, title, tuple(Claim(text, *test(entries)) for text, test in claims))


def measured(entries: Entries, prefix: str) -> dict[str, Entry]:
    """Only what was measured: a quoted figure under a measured one's name proves nothing."""
    return {k: e for k, e in entries.items() if k.startswith(prefix) and e["kind"] == "measured"}


def same_text(entries: Entries) -> tuple[bool, str]:
    seen = []
    for engine in ENGINES_331:
        entry = measured(entries, "greedy/").get(f"greedy/{engine}")
        if entry is None:
            return False, f"nothing recorded for {ENGINES[engine].title}: run the cell `check-greedy`"
        try:
            gaps = [gap for answer in results.load_raw("3.3.1", f"greedy/{engine}") for gap in answer["gaps"]]
        except LabError as e:
            return False, str(e)
        worst = max(gaps)
        if worst != entry["values"]["worst_gap_nats"]:
            return False, f"{ENGINES[engine].title}: the recorded worst gap doesn't follow from the raw ones"
        if fault := gap_fault(gaps):
            return False, f"{ENGINES[engine].title}: {fault}"
        seen.append(f"{ENGINES[engine].title} worst {worst:.3f} nats over {len(gaps)} tokens")
    return True, "; ".join(seen)


def all_loads(entries: Entries) -> tuple[bool, str]:
    found = rounds(measured(entries, "load/"), "output_tok_s")
    missing = [f"{ENGINES[e].title} at {u}" for e in ENGINES_331 for u in USERS_331 if (e, u) not in found]
    if missing:
        return False, f"missing: {', '.join(missing)} users: run the cell `run-load`"
    least = min(len(found[e, u]) for e in ENGINES_331 for u in USERS_331)
    if least < 2:
        return False, "each load needs two rounds at least, or no spread can be given: run the cell `run-load`"
    return True, f"{len(ENGINES_331)} engines at {', '.join(map(str, USERS_331))} users, {least} rounds each or more"


def follows_from_raw(entries: Entries) -> tuple[bool, str]:
    loads = measured(entries, "load/")
    if not loads:
        return False, "nothing recorded: run the cell `run-load`"
    for key, entry in loads.items():
        try:
            again = summarise(run_of(entry, results.load_raw("3.3.1", key))).values()
        except LabError as e:
            return False, str(e)
        wrong = [name for name in again if again[name] != entry["values"].get(name)]
        if wrong:
            return False, f"{key}: {', '.join(wrong)} doesn't follow from the raw traces"
    return True, f"{len(loads)} summaries computed again from their raw traces, all equal"


def run_of(entry: Entry, raw: Any) -> Run:
    """The run as it was, from its raw traces."""
    traces = tuple(Trace.restore(t) for t in raw)
    source, values = entry["provenance"], entry["values"]
    return Run(
        traces, values["users"], source["max_tokens"], source["prompts"], {}, values["client_cpu_share"],
        values["counted"], source.get("load", {}), values["client_lag_ms"],
    )  # fmt: skip


def no_failures(entries: Entries) -> tuple[bool, str]:
    loads = measured(entries, "load/").values()
    failed = sum(e["values"]["failed"] for e in loads)
    total = sum(e["values"]["requests"] for e in loads)
    return bool(total) and not failed, f"{failed} of {total} requests failed"


def no_cache_help(entries: Entries) -> tuple[bool, str]:
    loads = measured(entries, "load/").values()
    if not loads:
        return False, "nothing recorded: run the cell `run-load`"
    if any(e["values"]["cached_tokens"] is None for e in loads):
        return False, "an engine did not say how many prompt tokens came from its cache"
    cached = sum(e["values"]["cached_tokens"] for e in loads)
    prompt = sum(prompt_tokens(e["values"]) for e in loads)
    opening = OPENING_TOKENS * sum(e["values"]["requests"] for e in loads if e["values"]["cached_tokens"])
    said = f"by the engines' own counters, {cached} of about {prompt:,.0f} prompt tokens"
    if cached:
        said += f"; the opening of the template, {OPENING_TOKENS} tokens a request, may account for {opening}"
    return cached - opening < 0.01 * prompt, said


def reported(entries: Entries) -> tuple[bool, str]:
    files = [paths.results() / "report.html", paths.results() / "report.md"]
    missing = [f.name for f in files if not f.exists()]
    if missing:
        return False, f"{' and '.join(missing)} missing: run the cell `write-report`"
    ledger = results.ledger_file("3.3.1")
    if not ledger.exists() or min(f.stat().st_mtime for f in files) < ledger.stat().st_mtime:
        return False, "the report is older than the results: run the cell `write-report` again"
    return True, f"{paths.show(files[0])} and {files[1].name}, newer than every result"


Test = Callable[[Entries], tuple[bool, str]]
LABS: dict[str, tuple[str, tuple[tuple[str, Test], ...]]] = {
    "3.3.1": (
        "comprehensive engine benchmark report",
        (
            ("All engines compute the same model: greedy tokens within the reference's gap", same_text),
            ("All were measured at 1, 4 and 16 users, in repeated rounds", all_loads),
            ("Every figure follows from its raw traces", follows_from_raw),
            ("No request failed", no_failures),
            ("No prefix cache helped (under 1 % of prompt tokens beyond the template's opening)", no_cache_help),
            ("The report is written, from these results", reported),
        ),
    ),
}

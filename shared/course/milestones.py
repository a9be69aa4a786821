"""Has this lab been done? Asked of the ledger, never of a notebook's variables.

    milestones.check("3.3.1")       # the last cell of a lab
    milestones.progress()           # all six: make progress

Each claim is tested on what was recorded, shows its evidence with its time and machine, or says what is missing and
which cell makes it (shared.course.evidence says what is believed).
"""

import html
import sys
from dataclasses import dataclass
from typing import Any

from shared.course import attempts, registry
from shared.course.evidence import ClaimResult, Evidence, test_claim
from shared.errors import LabError
from shared.report.table import Table


@dataclass(frozen=True, repr=False)
class Milestone:
    """The last cell of a lab."""

    lab: str
    title: str
    claims: tuple[ClaimResult, ...]

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


def check(number: str, any_code: bool = False) -> Milestone:
    """Test every claim of one lab against the ledger."""
    lab = registry.find_lab(number)
    evidence = Evidence(number, any_code) if lab.claims else None
    return Milestone(number, lab.milestone, tuple(test_claim(c, evidence) for c in lab.claims if evidence))


def progress() -> Table:
    """All six labs: claims borne out, exercises done, and what to do next."""
    rows = []
    for lab in registry.LABS.values():
        if not lab.claims:
            rows.append((lab.number, lab.milestone, "not written yet", "", ""))
            continue
        found = check(lab.number)
        done = sum(c.ok for c in found.claims)
        missing = next((c.evidence for c in found.claims if not c.ok), "")
        counts = attempts.read_attempts(lab.number)
        right = sum(counts.get(e.function, attempts.FRESH)["outcome"] == "correct" for e in lab.exercises)
        sign = "✔" if found.complete else f"{done} of {len(found.claims)}"
        rows.append((lab.number, lab.milestone, sign, f"{right} of {len(lab.exercises)}", missing))
    return Table("Progress", ("lab", "milestone", "claims", "exercises right", "next"), rows)


def live(number: str) -> None:
    """Display the milestone with a button that tests it again; as text and table where widgets don't work."""
    import ipywidgets
    from IPython.display import display

    found = check(number)
    shown = ipywidgets.HTML(found._repr_html_())
    again = ipywidgets.Button(description="Check again", icon="refresh")

    def renew(_: Any) -> None:
        try:
            shown.value = check(number)._repr_html_()
        except LabError as e:
            shown.value = f"<pre>{html.escape(str(e))}</pre>"

    again.on_click(renew)
    box = ipywidgets.VBox([shown, again])
    view = box._repr_mimebundle_() or {}
    display({**view, "text/html": found._repr_html_(), "text/plain": repr(found)}, raw=True)


def main() -> int:
    try:
        table = progress()
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    for lab, milestone, claims, exercises, missing in table.rows:
        counted = f"{claims} claims" if " of " in claims else claims
        print(f"{lab}  {milestone}: {counted}" + (f", {exercises} exercises right" if exercises else ""))
        if missing:
            print(f"       next: {missing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

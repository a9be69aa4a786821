"""Tests a lab's claims on the ledger, never on a notebook's variables.

    milestones.check("3.3.1")       # the last cell of a lab
    milestones.progress()           # all six labs: make progress

A claim that holds shows its evidence with time and machine. One that does not hold shows what contradicts it, or what
is missing and which cell measures that. One that this machine could not run shows the reason. shared.course.evidence
decides which results are believed.
"""

import html
import sys
from dataclasses import dataclass
from typing import Any

from shared.course import attempts, own_words, registry
from shared.course.evidence import NOT_RUN, ClaimResult, Evidence, count, test_claim
from shared.errors import LabError, command
from shared.report.table import Table

CELL = "text-align: left; padding: .15em .5em"  # a milestone fits on one screen


@dataclass(frozen=True, repr=False)
class Milestone:
    """A lab's tested claims, as its last cell shows them."""

    lab: str
    title: str
    claims: tuple[ClaimResult, ...]
    conclusion: str = ""  # the student's own words

    @property
    def complete(self) -> bool:
        """Whether every claim holds."""
        return all(claim.ok for claim in self.claims)

    @property
    def complete_here(self) -> bool:
        """Whether every claim holds or could not be run on this machine."""
        return all(claim.ok or claim.not_run for claim in self.claims)

    def __repr__(self) -> str:
        lines = [f"{c.sign} {c.text}\n    {c.evidence}" for c in self.claims]
        return "\n".join([self.headline(), *lines, *([f"In your words: {self.conclusion}"] if self.conclusion else [])])

    def headline(self) -> str:
        return f"Milestone {self.lab}, {self.title}: {count(self.claims, ' claims')}"

    def _repr_html_(self) -> str:
        items = "".join(
            f"<tr><td>{c.sign}</td><td style='{CELL}'>{html.escape(c.text)}</td>"
            f"<td style='{CELL}'>{html.escape(c.evidence)}</td></tr>"
            for c in self.claims
        )
        words = f"<p><b>In your words:</b> {html.escape(self.conclusion)}</p>" if self.conclusion else ""
        return f"<b>{html.escape(self.headline())}</b><table style='font-size:90%'>{items}</table>{words}"


def check(number: str, any_code: bool = False) -> Milestone:
    """Test every claim of one lab against the ledger."""
    lab = registry.find_lab(number)
    evidence = Evidence(number, any_code) if lab.claims else None
    tested = tuple(test_claim(c, evidence) for c in lab.claims if evidence)
    return Milestone(number, lab.milestone, tested, own_words.conclusion(number))


def progress() -> Table:
    """All six labs: how many claims hold, how many exercises are right, and what to do next.

    Where nothing is left to do on this machine, `next` is the reason why a claim was not run.
    """
    rows: list[tuple[str, ...]] = []
    for lab in registry.LABS.values():
        if not lab.claims:
            rows.append((lab.number, lab.milestone, "not written yet", "", ""))
            continue
        found = check(lab.number)
        to_do = [c.evidence for c in found.claims if not c.ok and not c.not_run]
        not_run = [c.evidence for c in found.claims if c.not_run]
        counts = attempts.read_attempts(lab.number)
        right = sum(counts.get(e.function, attempts.FRESH)["outcome"] == "correct" for e in lab.exercises)
        sign = "✔" if found.complete else count(found.claims)
        rows.append(
            (lab.number, lab.milestone, sign, f"{right} of {len(lab.exercises)}", *(to_do + not_run + [""])[:1])
        )
    return Table("Progress", ("lab", "milestone", "claims", "exercises right", "next"), rows)


def live(number: str) -> None:
    """Display the milestone with a button that tests it again. Without widgets it is text and a table."""
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


@command
def main() -> None:
    for lab, milestone, claims, exercises, following in progress().rows:
        counted = claims.replace(" hold", " claims hold")
        print(f"{lab}  {milestone}: {counted}" + (f", {exercises} exercises right" if exercises else ""))
        if following:
            print(f"       {'' if following.startswith(NOT_RUN) else 'next: '}{following}")


if __name__ == "__main__":
    sys.exit(main())

"""The comparison report of lab 3.3.1: one self-contained HTML and one Markdown, made from the ledger alone.

    build_report("3.3.1")      # results/report.html, results/report.md

It says nothing that the ledger doesn't hold: no typed-in number, no winner where the rounds overlap, and each part
only if it was measured. What its sections say is in shared.course.benchmark.findings and
shared.course.benchmark.method.
"""

from collections.abc import Sequence
from pathlib import Path

from shared import files, paths
from shared.course.benchmark import findings
from shared.errors import LabError
from shared.report.page import Section, as_html
from shared.results import ledger
from shared.results.reading import Entries

TITLE = "Inference engines compared"


def build_report(lab: str = "3.3.1") -> Path:
    """Write both forms and return the HTML's path. Raises LabError if nothing was measured yet."""
    entries = ledger.load_results(lab, kind=None)
    loads = {key: e for key, e in entries.items() if key.startswith("load/") and e["kind"] == "measured"}
    if not loads:
        raise LabError("There is nothing to report: the ledger holds no measured load.", "run the cell `run-load`")
    written = [section for section in findings.every(entries, loads) if section]
    # Markdown first: the HTML is the file that a milestone looks at.
    files.write(paths.results() / "report.md", markdown(TITLE, written).encode())
    page = paths.results() / "report.html"
    files.write(page, as_html(TITLE, source(loads), written).encode())
    return page


def source(loads: Entries) -> str:
    """Where the results come from, for the line below the title."""
    processors = sorted({e["provenance"]["processor"] for e in loads.values()})
    day = max(e["provenance"]["time"] for e in loads.values())[:10]
    return f"Lab 3.3.1 · measured on {', '.join(processors)} · {day}"


def markdown(title: str, written: Sequence[Section]) -> str:
    out, number = [f"# {title}", ""], 0
    for section in written:
        out += [f"## {section.title}", "", section.text, ""]
        for plot in section.figures:
            if picture := plot.png():
                number += 1
                file = f"report-figure-{number}.png"
                files.write(paths.results() / file, picture)
                out += [f"![{plot.title}]({file})", ""]
            out += [plot.markdown(), ""]
    return "\n".join(out)

"""The comparison report of lab 3.3.1: one self-contained HTML and one Markdown, made from the ledger alone.

    build_report()      # results/report.html, results/report.md

Every number comes from the ledger. There is no winner where rounds overlap, and no section without a measurement. The
sections are written in shared.course.benchmark.findings and shared.course.benchmark.method.
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
    """Write both files and return the path of the HTML. Raises LabError if nothing was measured yet."""
    entries = ledger.load_results(lab, kind=None)
    loads = {key: e for key, e in entries.items() if key.startswith("load/") and e["kind"] == "measured"}
    if not loads:
        raise LabError("There is nothing to report: the ledger holds no measured load.", "run the cell `run-load`")
    written = [section for section in findings.every(entries, loads) if section]
    # The HTML comes last: the milestone looks at its time.
    files.write(paths.results() / "report.md", markdown(TITLE, written).encode())
    page = paths.results() / "report.html"
    files.write(page, as_html(TITLE, source(loads), written).encode())
    return page


def source(loads: Entries) -> str:
    """The line below the title: machine and date of the results."""
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

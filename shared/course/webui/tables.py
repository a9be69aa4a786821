"""The lab's tables and pictures of what was found in a browser."""

import base64
from typing import Any

from shared.course.labs import OpenLab
from shared.course.webui import browser_checks
from shared.course.webui import render_lag as rendering
from shared.report.table import Table
from shared.results.participants import missing


def browser(lab: OpenLab) -> Table:
    """Each check: what was done, and what came on each page that was tried."""
    pages = names(lab, browser_checks.PREFIX)
    found = {page: lab.raw(browser_checks.PREFIX + page) for page in pages}
    rows = []
    for name, check in browser_checks.CHECKS.items():
        done = check.done + (" (simulated answer)" if check.simulated else "")
        cells = []
        for page in pages:
            raw = found[page].get(name)
            sign = "–" if raw is None else "✔" if browser_checks.passed(name, raw) else "✘"
            cells.append(f"{sign} {'' if raw is None else browser_checks.came(name, raw)}".strip())
        if any(cell != "–" for cell in cells):
            rows.append((done, *cells))
    passed = {page: lab.values(browser_checks.PREFIX + page) for page in pages}
    header = (f"{page}: {passed[page]['passed']} of {passed[page]['checks']}" for page in pages)
    return Table("What a browser found", ("what was done", *header), rows)


def render_lag(lab: OpenLab) -> Table:
    """How far each page was behind the simulated stream, and how busy its main thread was."""
    rows = []
    for page in names(lab, rendering.PREFIX):
        values = lab.values(rendering.PREFIX + page)
        parts = ", ".join(f"{name} {share:.0f}" for name, share in values["of_that_percent"].items() if share >= 1)
        never = 1 - values["drawn"] / values["sent"]  # the share of words that never came: these are later still
        lag = [
            f"{'more than ' if never >= above else ''}{values[name]:,.0f}"
            for name, above in (("lag_p50_ms", 0.5), ("lag_p99_ms", 0.01))
        ]
        rows.append((page, f"{values['drawn']:,} of {values['sent']:,}", *lag, f"{values['busy_percent']:.0f}", parts))
    header = ("page", "words drawn", "lag p50, ms", "lag p99, ms", "main thread busy, %", "by kind, % of all time")
    stream = rendering.asked_here()
    title = f"A simulated stream: about {stream.words:,} words at once, then {stream.rate} a second"
    return Table(title, header, rows)


def picture(lab: OpenLab, page: str, check: str) -> Any:
    """The picture that a check took of this page: "streams" of any page, "markdown" of the lab's own."""
    from IPython.display import Image

    return Image(data=base64.b64decode(lab.raw(browser_checks.PREFIX + page)[check]["picture"]), format="jpeg")


def names(lab: OpenLab, prefix: str) -> list[str]:
    """The pages with a result under this prefix; the lab's plain or naive one first, the student's second."""
    order = ("plain", "naive", "webui")
    results = lab.results()
    found = {key.removeprefix(prefix) for key in results.keys() - missing(results) if key.startswith(prefix)}
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))

"""The report's section on what a decode step is made of."""

from collections.abc import Mapping
from typing import Any

from shared.course.benchmark.ranking import of_each
from shared.engines import ENGINES
from shared.load.loads import users_text
from shared.metrics.spread import number
from shared.report.page import Section
from shared.report.plots import bars
from shared.report.table import Table
from shared.results.reading import Entries

PARTS = ("overhead", "reading", "computing")
FITS = 0.2  # relative: where the model is further off, its parts explain nothing


def step_section(entries: Entries) -> Section | None:
    """What a decode step is made of, engine by engine, as the lab's model fitted it."""
    fits = of_each(entries, "fit/")
    if not fits:
        return None
    few, many = (str(f(int(u) for v in fits.values() for u in v["steps"])) for f in (min, max))
    figures = [
        bars(
            f"What a decode step is made of, by the model: {users_text(int(users))}",
            "ms",
            {ENGINES[name].title: dict(zip(PARTS, parts_ms(v, int(users)), strict=True)) for name, v in fits.items()},
            stacked=True,
        )
        for users in (few, many)
    ]
    rows = [
        (
            ENGINES[name].title,
            number(v["overhead_ms"]),
            number(v["bytes_ms"]),
            number(v["operations_ms_per_user"]),
            f"{100 * v['worst_residual']:.0f} %",
        )
        for name, v in fits.items()
    ]
    header = ("engine", "overhead, ms", "reading the weights, ms", "computing, ms a user", "worst misfit")
    text = (
        "step = overhead + bytes / bandwidth + operations / rate, fitted to the time per token at every number of "
        "users. The bandwidth is the machine's own, so the same bytes take all engines equally long; what an engine "
        "does slower than that shows as overhead. A large misfit means that its step is no straight line in its "
        "users.\n\n"
        + Table("", header, rows).markdown()
        + "\n\n"
        + "\n".join(f"- {sentences}" for sentences in differences(fits, few, many))
    )
    return Section("Why: what a step is made of", text, tuple(figures))


def parts_ms(values: Mapping[str, Any], users: int) -> tuple[float, float, float]:
    reading = values["bytes_ms"] + values["kv_ms_per_user"] * users
    return values["overhead_ms"], reading, values["operations_ms_per_user"] * users


def differences(fits: Mapping[str, Mapping[str, Any]], few: str, many: str) -> list[str]:
    """For each engine behind the fastest one by measurement, in which part of the step its distance lies mostly."""
    sentences = []
    for users in (few, many):
        steps_ms = {name: v["steps"][users] for name, v in fits.items() if users in v["steps"]}
        best = min(steps_ms, key=lambda name: steps_ms[name][0])
        for name, (measured_ms, _) in steps_ms.items():
            behind_ms = measured_ms - steps_ms[best][0]
            if behind_ms <= 0.1 * steps_ms[best][0]:
                continue
            pair = f"{ENGINES[name].title} is {number(behind_ms)} ms behind {ENGINES[best].title}"
            where = f"At {users_text(int(users))} {pair}"
            if any(abs(modelled / ms - 1) > FITS for ms, modelled in (steps_ms[name], steps_ms[best])):
                sentences.append(
                    f"{where}; by what, the model can't say: it misses one of the two by more than {100 * FITS:.0f} %."
                )
                continue
            both = (parts_ms(fits[one], int(users)) for one in (name, best))
            apart = [own - theirs for own, theirs in zip(*both, strict=True)]
            sentences.append(f"{where}, mostly by {PARTS[max(range(3), key=lambda i: apart[i])]}.")
    return sentences

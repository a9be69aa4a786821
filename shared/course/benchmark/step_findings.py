"""The report's section on what a decode step is made of, and the figures and tables of the notebook's fit."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shared.course.benchmark.limits import FITS
from shared.course.benchmark.ranking import of_each
from shared.engines import ENGINES
from shared.load.loads import users_text
from shared.metrics.spread import number
from shared.report.page import Section
from shared.report.plots import Plot, bars
from shared.report.table import Table
from shared.results.reading import Entries

PARTS = ("not explained", "reading", "computing")

Fits = Mapping[str, Mapping[str, Any]]  # by engine: the values of its fit


def step_section(entries: Entries) -> Section | None:
    """What a decode step is made of, engine by engine, as the lab's model fitted it."""
    fits = of_each(entries, "fit/")
    if not fits:
        return None
    few, many = (f(int(u) for v in fits.values() for u in v["steps"]) for f in (min, max))
    text = (
        "step = constant + bytes / bandwidth + operations / rate, fitted to the time per token at every number of "
        "users. The bandwidth is the machine's own, for all engines. The constant is therefore the time that neither "
        "reading at full bandwidth nor computing explains: scheduling, Python, and kernels that read more slowly. "
        f"Where the model misses a step by more than {100 * FITS:.0f} %, it does not explain that engine. Kernels "
        "change with the batch size, and a straight line over the users can't follow that.\n\n"
        + step_table(fits).markdown()
        + "\n\n"
        + "\n".join(f"- {sentence}" for sentence in differences(fits, str(few), str(many)))
    )
    return Section("Why: what a step is made of", text, (step_plot(fits, few), step_plot(fits, many)))


def step_table(fits: Fits) -> Table:
    """The parts of each engine's step, measured and modelled steps, and whether the model explains the engine."""
    users = sorted({int(u) for v in fits.values() for u in v["steps"]})
    rows = [
        (
            ENGINES[name].title,
            number(v["overhead_ms"]),
            number(v["bytes_ms"]),
            number(v["operations_ms_per_user"]),
            *("{:.0f} / {:.0f}".format(*v["steps"][str(n)]) if str(n) in v["steps"] else "–" for n in users),
            f"{100 * v['worst_residual']:.0f} %",
            "yes" if explains(v) else "no",
        )
        for name, v in fits.items()
    ]
    steps = (f"{users_text(n)}: measured / model, ms" for n in users)
    header = ("engine", *(f"{part}, ms" for part in PARTS[:2]), "computing, ms per user", *steps, "worst misfit")
    header = (*header, "engine explained")
    good = sum(map(explains, fits.values()))
    title = f"The model explains {good} of {len(fits)} engines (worst misfit at most {100 * FITS:.0f} %)"
    return Table(title, header, rows)


def explains(fit: Mapping[str, Any]) -> bool:
    """Whether the model's worst misfit is small enough for its parts to mean something."""
    return bool(fit["worst_residual"] <= FITS)


def step_plot(fits: Fits, users: int) -> Plot:
    """The parts of a step as stacked bars by the model, and the measured step as a marker above each."""
    there = {name: v for name, v in fits.items() if str(users) in v["steps"]}
    parts = {ENGINES[name].title: dict(zip(PARTS, parts_ms(v, users), strict=True)) for name, v in there.items()}
    measured = [v["steps"][str(users)][0] for v in there.values()]
    plot = bars(f"Parts of a decode step by the model, and the measured step: {users_text(users)}", "ms", parts, True)
    plot.figure.update_traces(text=None, selector={"type": "bar"})  # the table has them: on hatching they can't be read
    plot.figure.add_scatter(
        x=list(parts),
        y=measured,
        name="measured step",
        mode="markers",
        marker={"symbol": "line-ew-open", "size": 44, "color": "#D55E00", "line": {"width": 4}},
    )
    for (title, shares), ms in zip(parts.items(), measured, strict=True):
        top = max(ms, sum(shares.values()))
        plot.figure.add_annotation(x=title, y=top, text=f"measured {number(ms)} ms", showarrow=False, yshift=14)
    rows = [(*row, number(ms)) for row, ms in zip(plot.rows, measured, strict=True)]
    return replace(plot, header=(*plot.header, "measured step, ms"), rows=rows)


def parts_ms(values: Mapping[str, Any], users: int) -> tuple[float, float, float]:
    """(not explained, reading, computing) in ms of one step."""
    reading = values["bytes_ms"] + values["kv_ms_per_user"] * users
    return values["overhead_ms"], reading, values["operations_ms_per_user"] * users


def differences(fits: Fits, few: str, many: str) -> list[str]:
    """For each engine behind the fastest one by measurement: the part of the step with the largest difference."""
    sentences = []
    for users in (few, many):
        steps_ms = {name: v["steps"][users] for name, v in fits.items() if users in v["steps"]}
        best = min(steps_ms, key=lambda name: steps_ms[name][0])
        for name, (measured_ms, _) in steps_ms.items():
            behind_ms = measured_ms - steps_ms[best][0]
            if behind_ms <= 0.1 * steps_ms[best][0]:
                continue
            where = (
                f"At {users_text(int(users))} the step of {ENGINES[name].title} takes {number(behind_ms)} ms longer "
                f"than that of {ENGINES[best].title}"
            )
            if any(abs(modelled / ms - 1) > FITS for ms, modelled in (steps_ms[name], steps_ms[best])):
                sentences.append(
                    f"{where}. The model misses one of the two steps by more than {100 * FITS:.0f} %, so it does not "
                    "explain the difference."
                )
                continue
            both = (parts_ms(fits[one], int(users)) for one in (name, best))
            apart = [own - theirs for own, theirs in zip(*both, strict=True)]
            sentences.append(f"{where}. The largest part of it: {PARTS[max(range(3), key=lambda i: apart[i])]}.")
    return sentences

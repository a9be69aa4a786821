"""Diagnose it: a hidden fault on a live engine and gateway, and the check of a student's diagnosis.

    case = diagnosis.open_case(lab, model, seed=7)       # measures a healthy run, and one with a fault
    case.show()                                          # the evidence: figures, the course of both, counters, logs
    case.answer(fault="overload", metric="gateway:num_requests_waiting", fix="refuse early")
    case.fix()                                           # measures the same load with the fix

The seed draws the fault. The ledger keeps it as a hash, which the check and the milestone compare with the answer.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from shared.course.evidence import Evidence
from shared.course.gateway.injections import observe
from shared.course.gateway.seven_faults.figures import FELT, FIGURES, hint, moved, name_of
from shared.course.gateway.seven_faults.stack import CORES, FAULTS, Figures, Stack, healthy
from shared.course.labs import OpenLab
from shared.errors import LabError
from shared.hardware.machine import detect
from shared.models.choice import ModelChoice
from shared.report.table import Table, folded
from shared.results import ledger
from shared.results.reading import Entry

PREFIX = "diagnose/"
SALT = "which of them it is"


def draw(engine: str, seed: int) -> str:
    """The fault of this seed; the next one that can be put on this engine and machine, if that one can't."""
    machine = detect()
    one_core_shows = machine.runner == "native" and machine.cores > 1
    faults = [name for name, fault in FAULTS.items() if engine in fault.engines]
    at = int(sealed(engine, seed), 16) % len(faults)
    return next(name for name in faults[at:] + faults if name != CORES or one_core_shows)


def sealed(text: str, seed: int) -> str:
    """A fault as the ledger keeps it."""
    return hashlib.sha256(f"{SALT}/{seed}/{text}".encode()).hexdigest()[:16]


def open_case(lab: OpenLab, model: ModelChoice, *, seed: int, engine: str = "llamacpp") -> "Case":
    """Measure a healthy run and one with the fault of this seed, or take both from the ledger.

    engine: "llamacpp" or "vllm", which has other faults too and takes a minute for each start. Raises LabError if the
    engine or the gateway doesn't start.
    """
    base = healthy(engine, model)
    about = {"engine": engine, "model": model.name}
    before = _measured(lab, f"{PREFIX}healthy-{engine}", base, about)
    case = Case(lab, seed, engine, base, before["values"])
    faulty = case._faulty_stack()
    _measured(lab, case.key("faulty"), faulty, {**about, "sealed": sealed(draw(engine, seed), seed)})
    print(f"Case {seed}: a healthy run and a faulty one are recorded. case.show() shows the evidence.")
    return case


def _measured(lab: OpenLab, key: str, stack: Stack, about: Mapping[str, Any]) -> Entry:
    """What `lab.measure` does for a load, for a stack: its flags stay out of the record, since they name the fault."""
    entry = ledger.reusable(lab.number, key, about)
    if entry is None:
        print(f"Measuring {key.removeprefix(PREFIX)}:")  # above the panels
        figures, raw = observe(stack)
        entry = lab.record(key, figures, raw=raw, settings=about)
    return entry


@dataclass(frozen=True)
class Case:
    """One case: a healthy run, and a run with the fault that its seed drew."""

    lab: OpenLab
    seed: int
    engine: str
    base: Stack
    healthy: Figures

    def key(self, what: str) -> str:
        return f"{PREFIX}case-{self.seed}-{self.engine}/{what}"

    @property
    def faulty(self) -> Figures:
        figures: Figures = self.lab.values(self.key("faulty"))
        return figures

    def _faulty_stack(self) -> Stack:
        return FAULTS[draw(self.engine, self.seed)].inject(self.base, self.healthy)

    def show(self) -> None:
        """Display the evidence, and the names to answer with."""
        from shared.report.plots import show  # loads plotly

        show(self.table({"healthy": self.healthy, "this case": self.faulty}))
        show(_course({"healthy": self._raw("healthy"), "this case": self._raw("faulty")}))
        raw = self._raw("faulty")
        pages = {
            f"/metrics of {title}: what changed during the load": _changes(raw["metrics"]["before"][title], page)
            for title, page in raw["metrics"]["after"].items()
        }
        last = {title: "\n".join(text.splitlines()[-25:]) for title, text in raw["logs"].items()}
        folded({**pages, **{f"log of {title}, last lines": lines for title, lines in last.items()}})
        rows = [(name, fault.cause, fault.fix, fault.how) for name, fault in sorted(FAULTS.items())]
        show(Table("Faults", ("fault", "cause"), [row[:2] for row in rows]))
        show(Table("Fixes", ("fix", "what it does"), sorted(row[2:] for row in rows)))

    def table(self, runs: Mapping[str, Figures]) -> Table:
        """Each figure of these runs, under the name that an answer takes."""
        rows = [
            (name_of(figure, self.engine), *(rule.form.format(run[figure]) for run in runs.values()), rule.about)
            for figure, rule in FIGURES.items()
            if all(figure in run for run in runs.values())
        ]
        return Table(f"Case {self.seed}: the same stack in {len(runs)} runs", ("metric", *runs, ""), rows)

    def _raw(self, run: str) -> Any:
        return self.lab.raw(f"{PREFIX}healthy-{self.engine}" if run == "healthy" else self.key(run))

    def answer(
        self, *, fault: str | EllipsisType = ..., metric: str | EllipsisType = ..., fix: str | EllipsisType = ...
    ) -> None:
        """Check a diagnosis, record it, and print what is right and why the rest is not.

        fault and fix: names from the tables of `show`. metric: the name of a figure that shows the fault. An argument
        that is left as `...` is still open. Raises LabError for a name that is in no table.
        """
        given = {"fault": fault, "metric": metric, "fix": fix}
        if still_open := [name for name, value in given.items() if value is ...]:
            print(f"Still open: {', '.join(still_open)}. Type a name from the tables in place of each ...")
            return
        metrics = {name_of(figure, self.engine): figure for figure in FIGURES if figure in self.faulty}
        fixes = {one.fix: name for name, one in FAULTS.items()}
        for what, names in (("fault", FAULTS), ("metric", metrics), ("fix", fixes)):
            if given[what] not in names:
                raise LabError(f"There is no {what} {given[what]!r}.", f"choose one of: {', '.join(sorted(names))}")
        faults = self._wrong(str(fault), metrics[str(metric)], str(fix))
        self._record({**given, "right": not faults})
        print(
            "\n".join(faults)
            or f"Right: {FAULTS[str(fault)].cause}. {self._seen(metrics[str(metric)])} Now run case.fix()."
        )

    def _wrong(self, fault: str, figure: str, fix: str) -> list[str]:
        """What is wrong with a diagnosis; only the fault if that is wrong already."""
        injected = self._injected()
        if fault != injected:
            return [hint(self.engine, injected, fault, self.healthy, self.faulty)]
        found, shows = [], FAULTS[injected].shows
        if figure not in shows:
            if figure in FELT:
                why = "Most faults change what users feel. Name the figure that tells this one from the others."
            elif any(moved(figure, self.healthy, self.faulty, way) for way in (1, -1)):
                why = "It changes with other faults, too. Name a figure that is nearer to the cause."
            else:
                why = "It hardly differs from the healthy run."
            found.append(f"The fault is right, the metric is not. {self._seen(figure)} {why}")
        elif not moved(figure, self.healthy, self.faulty, shows[figure]):
            found.append(
                f"The fault is right, but in these two runs the metric doesn't show it. {self._seen(figure)} Name "
                'another one. Or measure again on a quiet machine: lab.set_aside("diagnose"), then open the case again.'
            )
        if fix != FAULTS[injected].fix:
            aim = next(one for one in FAULTS.values() if one.fix == fix)
            found.append(f"The fault is right, the fix is not: “{fix}” ({aim.how}) helps where {aim.cause}.")
        return found

    def _seen(self, figure: str) -> str:
        values = [FIGURES[figure].form.format(run[figure]) for run in (self.healthy, self.faulty)]
        return f"{name_of(figure, self.engine)}: {values[0]} in the healthy run, {values[1]} in this one."

    def _injected(self) -> str:
        entry = self.lab.results()[self.key("faulty")]
        return opened(entry, self.seed)

    def _record(self, answer: Mapping[str, Any]) -> None:
        entry = self.lab.results().get(self.key("answer"))
        before = entry["values"] if entry else {"tries": 0}
        revealed = {"revealed": before.get("revealed", False), **answer}  # once it is, it stays so
        self.lab.record(self.key("answer"), {**revealed, "seed": self.seed, "tries": before["tries"] + 1})

    def reveal(self) -> None:
        """Print the right diagnosis. The milestone then wants another case."""
        fault = self._injected()
        metric = name_of(next(iter(FAULTS[fault].shows)), self.engine)
        self._record({"fault": fault, "metric": metric, "fix": FAULTS[fault].fix, "right": False, "revealed": True})
        print(f"Case {self.seed}: {fault} ({FAULTS[fault].cause}). It shows in {metric}; the fix: {FAULTS[fault].how}.")
        print("For the milestone, open another case: another seed.")

    def fix(self) -> None:
        """Measure the same load with the fix, and show it beside the other two runs. Needs the right answer first."""
        answer = self.lab.results().get(self.key("answer"))
        if not answer or not answer["values"]["right"]:
            print("The fix is measured once the diagnosis is right: case.answer(fault=..., metric=..., fix=...)")
            return
        from shared.report.plots import show

        stack = FAULTS[self._injected()].mend(self.base, self._faulty_stack())
        about = {"engine": self.engine, "model": self.base.prompts.model.name, "mends": self.seed}
        mended = _measured(self.lab, self.key("fixed"), stack, about)["values"]
        show(self.table({"healthy": self.healthy, "this case": self.faulty, "with the fix": mended}))


def opened(entry: Entry, seed: int) -> str:
    """The fault of a faulty run, by its seal. Raises LabError if no fault has it."""
    for fault in FAULTS:
        if sealed(fault, seed) == entry["provenance"].get("sealed"):
            return fault
    raise LabError(
        "The faulty run of this case belongs to another seed.", 'lab.set_aside("diagnose"), then open the case again'
    )


def diagnosed(evidence: Evidence) -> tuple[bool, str]:
    """The claim's test: a case was answered rightly, its counters show it, and the fix moved the named metric back."""
    found = evidence.of(PREFIX)
    cases = [key.removesuffix("/answer") for key in found if key.endswith("/answer")]
    reasons = [_judged(found, case) for case in cases]
    if held := [text for ok, text in reasons if ok]:
        return True, held[0]
    return False, reasons[-1][1] if reasons else ""


def _judged(found: Mapping[str, Entry], case: str) -> tuple[bool, str]:
    answer = found[f"{case}/answer"]["values"]
    name, engine = case.removeprefix(PREFIX), case.rpartition("-")[2]
    if answer.get("revealed"):
        return False, f"{name}: the answer was revealed: open another case, with another seed"
    if not answer["right"]:
        return False, f"{name}: the diagnosis is not right yet (tries: {answer['tries']})"
    runs = [found.get(key) for key in (f"{PREFIX}healthy-{engine}", f"{case}/faulty", f"{case}/fixed")]
    if None in runs:
        return False, f"{name}: the fix is not measured yet: run case.fix()"
    before, now, mended = (run["values"] for run in runs if run)
    fault = opened(found[f"{case}/faulty"], answer["seed"])
    shows = FAULTS[fault].shows
    named = [figure for figure in shows if name_of(figure, engine) == answer["metric"]]
    if answer["fault"] != fault or not named:
        return False, f"{name}: the recorded answer doesn't fit the fault"
    figure = next(one for one in (*named, *shows) if one not in FAULTS[fault].stays)  # one in which a fix can show
    values = ", ".join(FIGURES[figure].form.format(one[figure]) for one in (before, now, mended))
    shown = f"shown by {name_of(figure, engine)}: {values} in the healthy run, the faulty one, with the fix"
    holds = all(moved(one, before, now, shows[one]) for one in (*named, figure))
    return holds and moved(figure, mended, now, shows[figure]), f"{name}: {fault}, {shown}"


def _changes(before: str, after: str) -> str:
    """The samples of a /metrics page that changed, and by how much. Buckets of histograms are left out."""
    old, lines = _samples(before), []
    for name, value in _samples(after).items():
        if value != old.get(name, 0.0) and "_bucket" not in name and "_created" not in name:
            lines.append(f"{name}  {old.get(name, 0.0):g} → {value:g}")
    return "\n".join(lines)


def _samples(page: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def _course(runs: Mapping[str, Any]) -> Any:
    """Requests that run and wait, over time: at the gateway and in the engine, a panel for each run."""
    from plotly.subplots import make_subplots

    from shared.report.plots import PARTS, Plot, layout

    title = "Requests at the gateway and in the engine"
    figure = make_subplots(cols=len(runs), shared_yaxes=True, subplot_titles=list(runs))
    figure.update_layout(**{k: v for k, v in layout(title, "", "").items() if not k.endswith("axis")})
    # Lines that coincide stay visible: the gateway's are wide, the engine's narrow and above them.
    lines = {"gateway_running": 6, "gateway_waiting": 6, "engine_running": 2, "engine_waiting": 2}
    for column, raw in enumerate(runs.values(), 1):
        for (line, width), (colour, _), dash in zip(lines.items(), PARTS, ("solid", "dash") * 2, strict=True):
            points = [(one["s"], one[line]) for one in raw["samples"] if line in one]
            figure.add_scatter(
                x=[at for at, _ in points], y=[value for _, value in points], row=1, col=column, mode="lines",
                line={"color": colour, "dash": dash, "width": width, "shape": "hv"}, name=line.replace("_", ": "),
                legendgroup=line, showlegend=column == 1,
            )  # fmt: skip
    figure.update_layout(legend={"y": 1.1}, margin={"t": 130})
    figure.update_xaxes(title="seconds of the load", rangemode="tozero", gridcolor="#d8dee4")
    figure.update_yaxes(rangemode="tozero", gridcolor="#d8dee4")
    figure.update_yaxes(title="requests", col=1)
    rows = [
        (
            line.replace("_", ": "),
            *(_range([one[line] for one in raw["samples"] if line in one]) for raw in runs.values()),
        )
        for line in lines
    ]
    return Plot(title, ("least to most", *runs), rows, figure)


def _range(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}" if values else "–"

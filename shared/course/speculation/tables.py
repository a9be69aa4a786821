"""The tables and pictures of lab 3.3.4, of results that are measured already. Each title states the processor."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from shared.course.speculation import cost_model as costs
from shared.course.speculation.speedups import HELD_OUT, Round, Rounds, Setting, Speedup, from_lab, percent, speedup
from shared.engines import ENGINES
from shared.engines.draft_counts import DraftCounts
from shared.errors import LabError
from shared.load.loads import users_text
from shared.metrics import correctness
from shared.metrics.spread import interval, number
from shared.report.plots import INK, LOOK, Plot, layout
from shared.report.table import Table
from shared.results.reading import Entries

# Colour and marker of a kind of draft; colours and patterns of the parts of a step.
KINDS = {"eagle3": ("#0072B2", "circle"), "ngram": ("#E69F00", "diamond"), "model": ("#009E73", "square")}
TITLES = {"eagle3": "EAGLE-3", "ngram": "n-gram look-up", "model": "small model as draft", "": "plain"}
LONG = 3  # drafts; markers of longer ones are hollow
OWN = ("#8c959f", "")
POSITIONS = (
    ("#0072B2", ""), ("#56B4E9", "/"), ("#009E73", "\\"), ("#E69F00", "x"), ("#D55E00", "-"), ("#CC79A7", "|"),
)  # fmt: skip
LEGEND_BELOW = {
    "showlegend": True,  # plotly hides the legend of a single line
    "margin": {"t": 56, "b": 136},
    "legend": {"orientation": "h", "x": 0.02, "xref": "container", "y": 0, "yref": "container", "yanchor": "bottom",
               "traceorder": "normal"},
}  # fmt: skip
STAND_IN = {"sglang": "torch functions stand in for its kernels on a CPU, and they differ with and without drafts, "
            "so only text and acceptance are SGLang's own"}  # fmt: skip


def place(lab: Any) -> str:
    """Where the lab's loads were measured, for a title: "(AMD EPYC, 2 cores)"."""
    for key, entry in lab.results().items():
        if key.startswith("speed/"):
            source = entry["provenance"]
            cores = source["cores"]
            return f"({source['processor']}, {cores} core{'s' * (cores > 1)})"
    raise LabError("There are no loads to show.", "run the cells that measure the engines first")


def title_of(setting: Setting) -> str:
    """ "EAGLE-3, 2 drafts"."""
    drafts = f", {setting.k} draft{'s' * (setting.k > 1)}" if setting.kind else ""
    return TITLES[setting.kind] + drafts


def texts(lab: Any) -> Table:
    """Each engine's greedy text with and without drafts: how far from the reference, and where it leaves plain's."""
    rows = []
    entries = {key: entry for key, entry in lab.results().items() if key.startswith("text/")}
    for key, entry in entries.items():
        _, engine, draft = key.split("/")
        plain, same = f"text/{engine}/plain", "–"
        if draft != "plain" and plain in entries and "worst_gap_nats" in entry["values"]:
            pairs = list(zip(lab.raw(key), lab.raw(plain), strict=True))
            equal = sum(one["tokens"] == other["tokens"] for one, other in pairs)
            same = f"{equal} of {len(pairs)} equal"
        worst, mean, equal_texts, _ = correctness.row(entry["values"])
        rows.append((ENGINES[engine].title, draft, worst, mean, equal_texts, same))
    header = ("engine", "draft", "worst gap, nats", "mean gap, nats", "texts as the reference's", "as without drafts")
    limits = f"limits {correctness.GAP_LIMIT_NATS} and {correctness.MEAN_GAP_LIMIT_NATS} nats"
    return Table(f"Greedy text against the reference ({limits})", header, rows)


def cells(one: Speedup | None, rounds: Rounds) -> tuple[str, ...]:
    """Decode time, speed-up, end to end, acceptance, tokens per step, verdict."""
    decoding, counts = str(interval(rounds.decode_ms)), rounds.counts
    if not rounds.setting.kind:
        return decoding, "1", "1", "–", "1", ""
    accepted = percent(counts.acceptance if counts else None)
    per_step = "–" if rounds.tokens_per_step is None else f"{rounds.tokens_per_step:.2f}"
    if one is None:
        return decoding, "–", "–", accepted, per_step, "plain decoding of these rounds is not measured"
    return decoding, str(one), str(one.end_to_end), accepted, per_step, one.verdict


HEADER = ("ms per token", "speed-up of decoding", "speed-up end to end", "accepted", "tokens per step", "verdict")


def of_drafts(lab: Any, title: str, first: str, wanted: Mapping[str, Sequence[Setting]]) -> Table:
    """A row for each of these measured settings, under its name."""
    found = from_lab(lab)
    all_of_them = [(name, setting) for name, settings in wanted.items() for setting in settings]
    rows = [(name, title_of(one), *cells(speedup(found, one), found[one])) for name, one in all_of_them]
    return Table(f"{title} {place(lab)}", (first, "draft", *HEADER), rows)


def settings(lab: Any, **wanted: Any) -> list[Setting]:
    """The measured settings with these values, plain decoding first."""
    found = [s for s in from_lab(lab) if all(getattr(s, name) == value for name, value in wanted.items())]
    return sorted(found, key=lambda s: (list(TITLES).index(s.kind) if s.kind else -1, s.engine, s.k))


def drafts(lab: Any, engine: str) -> Table:
    """All drafts of one engine at one user."""
    wanted = settings(lab, engine=engine, users=1, group=HELD_OUT, temperature=0)
    runs = [entry["provenance"] for key, entry in lab.results().items() if key.startswith(f"speed/{engine}/")]
    native = any(source.get("runner") != "container" for source in runs)
    title, note = ENGINES[engine].title, f"; {STAND_IN[engine]}" if native and engine in STAND_IN else ""
    return of_drafts(lab, f"{title}, 1 user{note}", "engine", {title: wanted})


def by_class(lab: Any, engine: str) -> Table:
    """One engine's drafts on each group of questions."""
    wanted = settings(lab, engine=engine, users=1, temperature=0)
    groups = dict.fromkeys(s.group for s in wanted if s.kind and s.group != HELD_OUT)
    drafted = {s.draft for s in wanted if s.group in groups}
    rows = {group: [s for s in wanted if s.group == group and s.draft in drafted] for group in (HELD_OUT, *groups)}
    return of_drafts(lab, f"{ENGINES[engine].title}, 1 user, by what is asked", "questions", rows)


def by_temperature(lab: Any, engine: str) -> Table:
    """One engine's drafts at each temperature."""
    wanted = settings(lab, engine=engine, users=1, group=HELD_OUT)
    hot = {s.draft for s in wanted if s.temperature}
    temperatures = sorted({s.temperature for s in wanted})
    rows = {f"{t:g}": [s for s in wanted if s.temperature == t and s.draft in hot] for t in temperatures}
    return of_drafts(lab, f"{ENGINES[engine].title}, 1 user, by temperature", "temperature", rows)


def line(
    figure: go.Figure, name: str, look: tuple[str, str], points: Mapping[int, Speedup], dash: str = "solid"
) -> None:
    """Add the medians of these speed-ups with their intervals."""
    at = sorted(points)
    above = [points[x].decoding.high - points[x].median for x in at]
    below = [points[x].median - points[x].decoding.low for x in at]
    whiskers = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    figure.add_scatter(
        x=at, y=[points[x].median for x in at], name=name, mode="lines+markers", error_y=whiskers,
        line={"color": look[0], "dash": dash, "width": 2.5}, marker={"symbol": look[1], "size": 10},
    )  # fmt: skip


def finish(figure: go.Figure) -> None:
    """The line at which drafts neither win nor lose. The legend names it, and goes below: its names are long."""
    line = {"color": INK, "dash": "dot", "width": 1.5}
    figure.add_hline(y=1, line=line, name="as fast as plain", showlegend=True, layer="below")
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(LEGEND_BELOW)


def by_length(lab: Any, engine: str) -> Plot:
    """Speed-up over the length of the drafts at one user, with the cost model's line where it can be fitted."""
    found = from_lab(lab)
    title = f"{ENGINES[engine].title}: speed-up by draft length {place(lab)}"
    figure = go.Figure(layout=layout(title, "drafts a step, k", "speed-up of decoding"))
    rows = []
    for kind in KINDS:
        wanted = settings(lab, engine=engine, kind=kind, users=1, group=HELD_OUT, temperature=0)
        if points := {s.k: one for s in wanted if (one := speedup(found, s))}:
            line(figure, TITLES[kind], KINDS[kind], points)
            rows += [(TITLES[kind], str(k), str(one), one.verdict) for k, one in points.items()]
    with contextlib.suppress(LabError):  # the cost model comes later in the lab, and needs more loads
        model = costs.fit(lab, engine)
        predicted = {k: model.speedup(1, k) for k in range(1, len(model.accepted_at) + 1)}
        grey = {"color": "#6e7781", "dash": "dash", "width": 2}
        figure.add_scatter(x=list(predicted), y=list(predicted.values()), name="cost model", mode="lines", line=grey)
        rows += [("cost model", str(k), number(one), "") for k, one in predicted.items()]
    finish(figure)
    return Plot(title, ("", "k", "speed-up", ""), rows, figure)


def by_users(lab: Any) -> Plot:
    """Speed-up over the users at once: a line for each engine and draft that was measured at more than one number."""
    found = from_lab(lab)
    title = f"Speed-up by users at once {place(lab)}"
    figure = go.Figure(layout=layout(title, "users at once", "speed-up of decoding"))
    seen: dict[tuple[str, int], Speedup] = {}
    for engine, kind, k in sorted({(s.engine, s.kind, s.k) for s in found if s.kind}):
        wanted = settings(lab, engine=engine, kind=kind, k=k, group=HELD_OUT, temperature=0)
        points = {s.users: one for s in wanted if (one := speedup(found, s))}
        if len(points) > 1:
            name = f"{ENGINES[engine].title}, {title_of(wanted[0])}"
            colour, _, dash = LOOK[engine]
            marker = KINDS[kind][1] + "-open" * (k > LONG)
            line(figure, name, (colour, marker), points, dash)
            seen |= {(name, users): points[users] for users in sorted(points)}
    at = sorted({users for _, users in seen})
    figure.update_xaxes(type="log", tickvals=at, ticktext=[str(users) for users in at])
    finish(figure)
    rows = [(name, str(users), str(one), percent(one.acceptance), one.verdict) for (name, users), one in seen.items()]
    return Plot(title, ("", "users", "speed-up", "accepted", ""), rows, figure)


def parts_of_step(rounds: Rounds) -> dict[str, float] | None:
    """What a step adds on average: the model's own token, and accepted drafts by position; None without counters."""
    counts, steps = rounds.counts, rounds.steps
    if counts is None or not steps:
        return None
    parts = {"the model's own token": 1.0}
    if counts.accepted_at is None:
        return parts | {"drafts, position not counted": counts.accepted / steps}
    for position, accepted in enumerate(counts.accepted_at, 1):
        name = f"draft {position}" if position < len(POSITIONS) - 1 else f"draft {len(POSITIONS) - 1} and later"
        parts[name] = parts.get(name, 0.0) + accepted / steps
    return parts


def parts_from_answers(entries: Entries, setting: Setting) -> dict[str, float] | None:
    """The same from the engine's answers to these questions, if they have positions that its counters lack."""
    entry = entries.get(f"positions/{setting.engine}/{setting.draft}")
    if entry is None or "accepted_at" not in entry["values"]:
        return None
    steps, at = entry["values"]["verifications"], tuple(entry["values"]["accepted_at"])
    counts = DraftCounts(steps, steps * setting.k, sum(at), at)
    return parts_of_step(Rounds(setting, {1: Round(0.0, 0.0, steps + sum(at), counts)}))


def accepted(lab: Any) -> Plot:
    """Tokens that one step adds, by where they come from: a bar for each engine and draft at one user."""
    found, entries = from_lab(lab), lab.results()
    bars = {
        f"{ENGINES[s.engine].title}, {title_of(s)}": parts
        for s in settings(lab, users=1, group=HELD_OUT, temperature=0)
        if s.kind and (parts := parts_from_answers(entries, s) or parts_of_step(found[s]))
    }
    title = f"Tokens that one step adds {place(lab)}"
    figure = go.Figure(layout=layout(title, "tokens per step", ""))
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    for look, name in enumerate(names):
        colour, pattern = POSITIONS[(look - 1) % len(POSITIONS)] if look else OWN
        values = [parts.get(name, 0.0) for parts in bars.values()]
        figure.add_bar(
            y=list(bars), x=values, name=name, orientation="h", textposition="inside", textangle=0,
            text=["" if value < 0.1 else f"{value:.2f}" for value in values],
            marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "white", "fgopacity": 0.6}},
        )  # fmt: skip
    figure.update_layout(LEGEND_BELOW | {"barmode": "stack", "height": 220 + 40 * len(bars)}, margin_l=280)
    figure.update_yaxes(autorange="reversed")
    shown = {bar: [f"{parts[name]:.2f}" if name in parts else "–" for name in names] for bar, parts in bars.items()}
    rows = [(bar, *shown[bar], f"{sum(parts.values()):.2f}") for bar, parts in bars.items()]
    return Plot(title, ("", *names, "together"), rows, figure)


def passes(lab: Any) -> Plot:
    """The time of one pass of the model in torch over the number of new tokens, beside as many passes of one."""
    values = lab.values("passes/torch")
    ms = {int(count): one for count, one in values["ms"].items()}
    source = lab.results()["passes/torch"]["provenance"]
    title = f"One pass in torch, {values['dtype'].removeprefix('torch.')} ({source['processor']})"
    figure = go.Figure(layout=layout(title, "new tokens in the pass", "ms"))
    for name, times, mode in (
        ("one pass", list(ms.values()), "lines+markers"), ("one token at a time", [n * ms[1] for n in ms], "lines"),
    ):  # fmt: skip
        figure.add_scatter(x=list(ms), y=times, name=name, mode=mode)
    figure.update_yaxes(rangemode="tozero")
    rows = [(str(count), number(one), f"{one / ms[1]:.2f}", f"{one / count:.2f}") for count, one in ms.items()]
    return Plot(title, ("new tokens", "ms", "times a pass over one", "ms per token"), rows, figure)


def cost_model(lab: Any, engine: str) -> Table:
    """The fitted costs in the title, and each setting that they weren't fitted on: measured and predicted."""
    model = costs.fit(lab, engine)
    tested = costs.tests(model, from_lab(lab))
    rows = []
    for one in tested:
        s, figures = one.setting, (f"{one.measured:.2f}", f"{one.predicted:.2f}", f"{100 * one.error:+.0f} %")
        rows.append((title_of(s), users_text(s.users), s.group, f"{s.temperature:g}", *figures))
    error = costs.error_of(tested)
    title = (
        f"{ENGINES[engine].title}, {TITLES[model.kind]}: a plain pass {number(model.pass_ms(1))} ms, drafting "
        f"{model.fixed_ms:.1f} ms a step + {model.draft_ms:.2f} ms a draft; error on settings not fitted on: "
        f"{'–' if error is None else f'{error} %'} {place(lab)}"
    )
    header = ("draft", "users", "questions", "temperature", "measured speed-up", "predicted speed-up", "error")
    return Table(title, header, rows)


def break_even(lab: Any, engine: str, function: Callable[..., float | None]) -> Table:
    """For one user and for many, for each k: a step's time, the acceptance at which it pays, and what it adds.

    function: the exercise `break_even(k, users, pass_ms, draft_ms)`.
    """
    model, rows = costs.fit(lab, engine), []
    for one in costs.break_even(lab, engine):
        drafts_ms = one.step_ms - model.pass_ms(one.users * (one.k + 1))
        alpha = function(one.k, one.users, model.pass_ms, drafts_ms / one.k)
        pays = "–" if one.made_tokens is None else "pays" if one.made_tokens > one.needed_tokens else "loses"
        adds = "–" if one.made_tokens is None else f"{one.made_tokens:.2f}"
        needed = "at none" if alpha is None else f"{alpha:.2f}"
        made = (number(one.plain_ms), number(one.step_ms), f"{one.needed_tokens:.2f}", needed, adds, pays)
        rows.append((str(one.users), str(one.k), *made))
    header = (
        "users", "k", "plain step, ms", "step, ms", "tokens a step must add", "break-even acceptance α",
        "tokens that a step adds", "",
    )  # fmt: skip
    drafts = TITLES[model.kind]
    title = f"{ENGINES[engine].title}, {drafts}: when drafts pay; measured for one user, by the cost model for more"
    return Table(f"{title} {place(lab)}", header, rows)

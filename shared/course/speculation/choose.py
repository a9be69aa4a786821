"""The open task of lab 3.3.4: choose the draft for a traffic.

A traffic is so many users at once, of whose answers some are copied from the prompt. Which draft serves it best is read
from a measured surface: the decode time of each option at few and at many users, on new text and on copied text. The
choice is judged by its regret, how many percent more time a token takes than with the best option, and is then run.

    choose.traffics()                                  # what to choose for
    choose.judge(lab, {"one writer": "ngram-8", ...})
    choose.run(lab, model, my_choice, sizes)
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from shared.course.labs import OpenLab
from shared.course.speculation import experiments
from shared.course.speculation.on_engines.drafts_here import Sizes, main_kind, name_of
from shared.course.speculation.on_engines.questions import COPYING as COPYING
from shared.course.speculation.on_engines.questions import HELD_OUT, Questions, questions_of
from shared.course.speculation.speedups import Rounds, Setting, from_lab, read
from shared.course.speculation.speedups import main_kind as measured_kind
from shared.engines import Draft
from shared.errors import LabError
from shared.hardware.machine import detect
from shared.launch.launcher import launch
from shared.launch.running import Engine
from shared.launch.starts import together
from shared.load.loads import Closed, Load, users_text
from shared.metrics.spread import number
from shared.models.choice import ModelChoice
from shared.report.table import Table

ENGINE = "llamacpp"  # it starts in a second
FEW = 1  # user
REGRET_LIMIT_PERCENT = 10.0
NAIVE = "longest drafts"  # "the more drafts, the better"
Choice = Mapping[str, str]  # traffic's name → one of the options, or NAIVE


@dataclass(frozen=True)
class Traffic:
    name: str
    users: int
    copying_percent: int  # of the tokens are in answers that copy their prompt

    def __str__(self) -> str:
        return f"{self.name}: {users_text(self.users)}, {self.copying_percent} % copying"


def many(found: Iterable[Setting] = ()) -> int:
    """How many users fill the house: as many as the surface was measured for, or else as this machine measures."""
    measured = (setting.users for setting in found if setting.group == COPYING and setting.users > FEW)
    return max(measured, default=experiments.sizes(detect()).users[-1])


def traffics(found: Iterable[Setting] = (), seed: int = 0) -> tuple[Traffic, ...]:
    """Three traffics, for the measured surface `found`. The seed draws how much each copies."""
    source = random.Random(seed)
    return (
        Traffic("one writer", FEW, source.randrange(0, 15, 5)),
        Traffic("one editor", FEW, source.randrange(75, 100, 5)),
        Traffic("a full house", many(found), source.randrange(10, 30, 5)),
    )


def names(kind: str) -> tuple[str, ...]:
    """The options on a machine with this main kind of draft, as kind-k. Two lengths of it, and look-up."""
    return tuple(dict.fromkeys((experiments.PLAIN, f"{kind}-2", f"{kind}-8", "ngram-8")))


def measured_names(found: Iterable[Setting]) -> tuple[str, ...]:
    """The options of the machine on which the surface `found` was measured."""
    return names(measured_kind(found, ENGINE))


def longest(found: Iterable[Setting]) -> str:
    """The option that NAIVE stands for: the longest drafts of the main kind."""
    return measured_names(found)[2]


def options(model: ModelChoice) -> list[Draft | None]:
    """The options of this machine as drafts of llama.cpp."""
    return [option(name, model) for name in names(main_kind(model))]


def option(name: str, model: ModelChoice) -> Draft | None:
    if name == experiments.PLAIN:
        return None
    kind, _, tokens = name.partition("-")
    return experiments.draft(ENGINE, kind, int(tokens), model)


def measure_surface(lab: OpenLab, engine: Engine, number: int, sizes: Sizes) -> None:
    """Measure a round of one option, running as `engine`: new text and copied text, for few and for many users."""
    experiments.speeds(lab, engine, number, sizes, (FEW, sizes.users[-1]), (HELD_OUT, COPYING))


def decode_ms(found: Mapping[Setting, Rounds], name: str, traffic: Traffic) -> float | None:
    """Milliseconds per token that this option needs for this traffic by the surface; None if it isn't measured.

    Answers of both kinds are equally long, so the time per token is the mean of both, weighted by their shares.
    """
    kind, _, tokens = name.partition("-") if name != experiments.PLAIN else ("", "", "0")
    times = []
    for group in (HELD_OUT, COPYING):
        rounds = found.get(Setting(ENGINE, kind, int(tokens), group, traffic.users))
        if rounds is None:
            return None
        times.append(median(rounds.decode_ms))
    copied = traffic.copying_percent / 100
    return (1 - copied) * times[0] + copied * times[1]


@dataclass(frozen=True)
class Judged:
    """One traffic, what was chosen for it, and what would have been best."""

    traffic: Traffic
    chosen: str
    best: str
    chosen_ms: float
    best_ms: float

    @property
    def regret_percent(self) -> float:
        return 100 * (self.chosen_ms / self.best_ms - 1)

    @property
    def good(self) -> bool:
        return self.regret_percent <= REGRET_LIMIT_PERCENT


def judged(found: Mapping[Setting, Rounds], choice: Choice) -> list[Judged]:
    """Each traffic's choice beside the best option. Raises LabError for an unknown choice or a missing measurement."""
    rows, asked, there = [], traffics(found), measured_names(found)
    for traffic in asked:
        if choice.get(traffic.name) not in (*there, NAIVE):
            raise LabError(
                f"The choice for “{traffic.name}” is {choice.get(traffic.name)!r}.",
                f"choose one of {', '.join(map(repr, there))}",
            )
    for traffic in asked:
        name = longest(found) if choice[traffic.name] == NAIVE else choice[traffic.name]
        times = {one: ms for one in there if (ms := decode_ms(found, one, traffic)) is not None}
        if len(times) < len(there):
            missing = ", ".join(one for one in there if one not in times)
            raise LabError(f"The surface lacks {missing}.", "run the cell that measures the surface")
        best = min(times, key=lambda one: times[one])
        rows.append(Judged(traffic, name, best, times[name], times[best]))
    return rows


def best(lab: Any) -> dict[str, str]:
    """The best option of each traffic by the measured surface."""
    first = dict.fromkeys((traffic.name for traffic in traffics()), experiments.PLAIN)
    return {row.traffic.name: row.best for row in judged(from_lab(lab), first)}


def surface(lab: Any) -> Table:
    """Decode time of each option, for few and many users, on new and on copied text."""
    found, header = from_lab(lab), ["draft"]
    places = [(users, group) for users in (FEW, many(found)) for group in (HELD_OUT, COPYING)]
    header += [f"{users_text(users)}, {'copied' if group == COPYING else 'new'} text" for users, group in places]
    rows = []
    for name in measured_names(found):
        cells = [decode_ms(found, name, Traffic("", users, 100 * (group == COPYING))) for users, group in places]
        rows.append((name, *("–" if ms is None else number(ms) for ms in cells)))
    return Table("Decode time on llama.cpp, ms per token", header, rows)


def judge(lab: OpenLab, choice: Choice) -> Table:
    """Record the choice under choice/mine, and show its regret for each traffic."""
    rows = judged(from_lab(lab), choice)
    lab.record("choice/mine", {"choice": dict(choice)}, raw=[row.regret_percent for row in rows])
    return regrets("Your choice", rows)


def naive(lab: Any) -> Table:
    """The regret of the longest drafts for every traffic."""
    choice = {traffic.name: NAIVE for traffic in traffics()}
    found = from_lab(lab)
    return regrets(f"{longest(found)} for everyone", judged(found, choice))


def regrets(title: str, rows: list[Judged]) -> Table:
    cells = [
        (
            str(row.traffic), row.chosen, number(row.chosen_ms), row.best, number(row.best_ms),
            f"{'✔' if row.good else '✘'} {row.regret_percent:.0f} %",
        )
        for row in rows
    ]  # fmt: skip
    header = ("traffic", "chosen", "ms per token", "best", "ms per token", f"regret (limit {REGRET_LIMIT_PERCENT:g} %)")
    return Table(title, header, cells)


@dataclass(frozen=True)
class Mixed(Questions):
    """Questions of both kinds, the copying ones evenly among the others."""

    copies: tuple[str, ...] = ()
    copying_percent: int = 0

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        new, copied = Questions.__iter__(self), iter(Questions(self.name, self.model, self.copies, first=self.first))
        for place in range(1, 10**9):
            copies = place * self.copying_percent // 100 > (place - 1) * self.copying_percent // 100
            yield next(copied if copies else new)


def run(lab: OpenLab, model: ModelChoice, choice: Choice, sizes: Sizes) -> Table:
    """Run each choice for real, beside plain decoding: the traffic's own mixture of questions."""
    asked = judged(from_lab(lab), choice)
    wanted = dict.fromkeys((experiments.PLAIN, *(row.chosen for row in asked)))
    how: Any = {"quiet": True, "when_needed": True, "beside": True}
    engines = [launch(ENGINE, model, experiments.FLAGS[ENGINE], draft=option(name, model), **how) for name in wanted]
    with together(engines) as turns:
        for _, engine in turns(1):
            for row in asked:
                if (name := name_of(engine.draft)) in (experiments.PLAIN, row.chosen):
                    key = f"choice/{row.traffic.name.replace(' ', '-')}/{name}/round-1"
                    lab.measure(key, load_of(engine, row.traffic, sizes))
    return results(lab, asked)


def load_of(engine: Engine, traffic: Traffic, sizes: Sizes) -> Load:
    """The traffic as a load: its users, and its mixture of questions."""
    mixed = Mixed(
        f"{traffic.copying_percent} % copying", engine.model, questions_of(HELD_OUT, sizes.tokens),
        copies=questions_of(COPYING, sizes.tokens), copying_percent=traffic.copying_percent,
    )  # fmt: skip
    count = max(traffic.users, 2 * sizes.rounds)
    return Load(engine, mixed, Closed(traffic.users, count), sizes.tokens, sizes.warm_up)


def results(lab: Any, asked: list[Judged]) -> Table:
    """What each choice brought when it was run, and what the surface had promised."""
    entries = lab.of("choice/") if hasattr(lab, "of") else lab.results()
    found, cells = read(entries, lab.raw, "choice/"), []
    for row in asked:
        times = []
        for name in ("plain", row.chosen):
            kind, _, tokens = name.partition("-") if name != "plain" else ("", "", "0")
            group = f"{row.traffic.copying_percent} % copying"
            rounds = found.get(Setting(ENGINE, kind, int(tokens), group, row.traffic.users))
            times.append(median(rounds.decode_ms) if rounds else None)
        plain_ms, chosen_ms = times
        gain = "–" if plain_ms is None or chosen_ms is None else f"{plain_ms / chosen_ms:.2f}"
        shown = ("–" if ms is None else number(ms) for ms in times)
        cells.append((str(row.traffic), row.chosen, *shown, gain, number(row.chosen_ms)))
    header = (
        "traffic",
        "run",
        "plain, ms per token",
        "chosen, ms per token",
        "speed-up",
        "by the surface, ms per token",
    )
    return Table("Your choice, run for real", header, cells)

"""A lab as its notebook uses it: its checks, guesses, engines, results and milestone.

lab = labs.open("3.3.2")        # in a lab's first cell
lab.guess(growth=8)
lab.measure("load/users-16/vllm/round-1", Load(vllm, prompts.short(model), Closed(users=16, requests=32)))
"""

import difflib
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

from shared.course import cell_times, checks, milestones, registry
from shared.course.own_words import conclude, guess_beside_result, record_guesses
from shared.engines import Flags
from shared.errors import LabError
from shared.launch.launcher import alone
from shared.launch.running import Engine
from shared.load import loops
from shared.load.client import Trace
from shared.load.loads import Load, Run
from shared.metrics.summary import Summary, summarise
from shared.models.choice import ModelChoice
from shared.report import timeline
from shared.report.table import Table
from shared.results import ledger, participants
from shared.results.provenance import functions_sha256
from shared.results.reading import Entry

Values = dict[str, Any]
Function = Callable[..., Any]
Done = TypeVar("Done")


@dataclass(frozen=True)
class OpenLab:
    """One lab, opened in its notebook."""

    number: str
    _announced: set[str] = field(default_factory=set, repr=False)  # series whose reuse has been announced

    @functools.cached_property
    def check(self) -> checks.Checker:
        """`check(f)`, `check.hint(f)`, `check.reveal(f)`, `check.use(f)` for this lab's exercises."""
        return checks.of(self.number)

    @overload
    def measure(self, key: str, one: Load, *, uses: tuple[Function, ...] = ()) -> Summary: ...

    @overload
    def measure(
        self, key: str, one: Function, *, engine: Any = None, uses: tuple[Function, ...] = (), **settings: object
    ) -> Any: ...

    def measure(
        self,
        key: str,
        one: Load | Function,
        *,
        engine: Engine | Any = None,
        uses: tuple[Function, ...] = (),
        **settings: object,
    ) -> Any:
        """Measure once: return the result recorded under `key` if it can be reused, else run `one` and record it.

        `one` is a Load, or a function (it may be `async`) that measures something else and returns a Run, the values
        for the ledger, or (values, raw data). `lab.measure` returns the Summary of a load or a Run, else the values;
        `lab.raw(key)` returns the raw data. While it measures, the other engines of this notebook are paused. An engine
        that has ended is started again, with the same flags.

        A result is reused as long as everything that decides it is unchanged: the machine, the engine with its flags,
        the model, the load, the lab's code, `settings`, and the notebook's functions (`one`, those in `uses`, and all
        that they call). For a function, name the engine that it measures as `engine`, and what else decides the number
        as `settings`.

        Raises LabError for an invalid key, and if `one` is neither a Load nor a function.
        """
        ledger.check_key(key)  # before, not after a minute of measuring
        if not isinstance(one, Load) and not hasattr(one, "__code__"):  # without code no change of it would be seen
            raise LabError(
                f"{key}: a {type(one).__name__} can't be measured.",
                "give a Load, or the function itself: lab.measure(key, measure), not measure(); "
                "or a lambda that calls it",
            )
        if isinstance(one, Load):
            engine, asked = one.engine, one.settings()
            functions = functions_sha256(*uses)
        else:
            asked = settings
            functions = functions_sha256(*uses, one)
        asked = {**(engine.provenance() if engine else {}), **asked, **({"uses": functions} if functions else {})}
        if (entry := ledger.reusable(self.number, key, asked)) is not None:
            self._announce(key, entry)
            return self._stored(key, entry)
        if isinstance(engine, Engine):
            participants.again(engine)
        with alone(engine):
            made = loops.run(one) if isinstance(one, Load) else _result(one)
        return self._recorded(key, made, engine, functions, settings)

    def _recorded(
        self, key: str, made: Any, engine: Any, functions: Mapping[str, str], settings: Mapping[str, object]
    ) -> Any:
        if isinstance(made, Run):
            summary = summarise(made)
            ledger.record(self.number, key, summary, uses=functions, settings=settings)
            return summary
        values, raw = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(values, Mapping | Summary):
            raise LabError(
                f"{key}: measuring returned a {type(values).__name__}, which can't be recorded.",
                'return the values by name, {"ttft_ms": 8}, alone or with raw data: return values, raw',
            )
        entry = ledger.record(self.number, key, values, engine=engine, raw=raw, uses=functions, settings=settings)
        return self._stored(key, json.loads(json.dumps(entry)))  # keys are texts, as in the ledger

    def _stored(self, key: str, entry: Entry) -> Any:
        """What `measure` returns for an entry, whether it was measured now or earlier."""
        if "output_tok_s" in entry["values"] and "requests" in entry["values"]:
            return summarise(ledger.run_of(entry, self.raw(key)))
        return entry["values"]

    def _announce(self, key: str, entry: Entry) -> None:
        series = key.partition("/")[0]
        if series not in self._announced:
            self._announced.add(series)
            when = entry["provenance"]["time"][:16].replace("T", " ")
            print(f'Reusing results of {series} (this one from {when}). To measure again: lab.set_aside("{series}")')

    def guess(self, **guesses: object) -> dict[str, float]:
        """Record your predictions before you measure, one number per name: `lab.guess(growth=8, ttft_ms=120)`.

        Returns them by name. Replace each `...` by a number; a `...` that you leave is skipped, and a line names it.
        A changed number is recorded with a new time. Raises LabError for anything else than a number.
        """
        return record_guesses(self.number, guesses)

    def guess_beside_result(self, measured_under: str, **results: object) -> Table:
        """A table of results, each with your guess of the same name: `lab.guess_beside_result("load/", growth=7.6)`.

        A result is a number, a Spread, or a text with its unit. `measured_under` is the prefix of the measurements
        that the results were computed from: a guess recorded after the first of them is marked.
        """
        return guess_beside_result(self.number, measured_under, results)

    def start_engines(self, model: ModelChoice, asked: Mapping[str, Flags]) -> tuple[Engine, ...]:
        """Start several engines, given as {name: flags}, and return those that started.

        An engine that can't start on this machine is skipped: the reason is printed, and recorded under
        "engine/<name>". The start-up time of each other one is recorded there, in seconds. Raises LabError if no
        engine starts.
        """
        return participants.start_engines(self.number, model, asked)

    def attempt(self, key: str, what: str, do: Callable[[], Done]) -> Done | None:
        """Call `do` and return its result. If it raises LabError, go on without: return None.

        The reason is then recorded under `key`, and printed after "Without" and `what`. An earlier reason there is set
        aside once `do` succeeds. Use it for a part of a lab that some machines can't run. Raises LabError for a key
        of a result that was typed wrong.
        """
        return participants.attempt(self.number, key, what, do)

    def milestone(self) -> milestones.Milestone:
        """Test every claim of this lab on the recorded results.

        Show it as a cell's last line. `.complete` is True if every claim holds, and `.complete_here` if each one
        holds or could not be run on this machine.
        """
        return milestones.check(self.number)

    def show_milestone(self) -> None:
        """Display the milestone with a button that tests the claims again."""
        milestones.live(self.number)

    def conclude(self, text: str, *evidence: str) -> Table | None:
        """Record your conclusion, and return it beside the results that it rests on.

        `evidence` are keys of results, or their beginnings: `lab.conclude(my_conclusion, "load/users-16")`. The
        milestone shows the conclusion. An empty text is not recorded. Raises LabError if no result is named, or if
        one doesn't exist.
        """
        return conclude(self.number, text, evidence)

    def write_timeline(self, key: str) -> Path:
        """Write the requests of the load under `key` as a timeline, and return its file.

        Open the file at https://ui.perfetto.dev. Raises LabError if no load is recorded under `key`.
        """
        return timeline.write(self.number, key)

    def record(self, key: str, values: Mapping[str, Any], **more: Any) -> Entry:
        """Record a result that was computed from others or is quoted, and return its entry.

        `more` are the keyword arguments of shared.results.ledger.record: kind, raw, engine, uses, settings.
        """
        return ledger.record(self.number, key, values, **more)

    def results(self, kind: str | None = "measured") -> dict[str, Entry]:
        """The recorded entries of this lab, by key; `kind=None` includes those that were not measured."""
        return ledger.load_results(self.number, kind)

    def values(self, key: str) -> Values:
        """The values recorded under `key`. Raises LabError if there are none."""
        there = self.results(None)
        if key not in there:
            close = ", ".join(difflib.get_close_matches(key, there, 3, 0.3))
            raise LabError(
                f"Lab {self.number} has no result {key!r}.",
                "run the cell that measures it" + (f", or name another one, such as {close}" if close else ""),
            )
        found: Values = there[key]["values"]
        return found

    def raw(self, key: str) -> Any:
        """The raw data recorded under `key`. Raises LabError if it is missing or damaged."""
        return ledger.load_raw(self.number, key)

    def traces(self, key: str) -> list[Trace]:
        """The requests of the load under `key`, with their raw timestamps."""
        return [Trace.restore(stored) for stored in self.raw(key)]

    def set_aside(self, prefix: str) -> None:
        """Move the results whose key starts with `prefix` into a folder beside the others, to measure them again."""
        ledger.set_aside(self.number, prefix)


def _result(one: Function) -> Any:
    made = one()
    return loops.in_own_loop(made) if inspect.iscoroutine(made) else made


def open(number: str) -> OpenLab:
    """Open a lab in its notebook. From then on, each long cell first prints how long it takes.

    Raises LabError if there is no such lab.
    """
    registry.find_lab(number)
    cell_times.announce_long_cells(number)
    return OpenLab(number)

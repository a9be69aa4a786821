"""A lab as its notebook uses it: its check, guesses, results and milestone.

lab = labs.open("3.3.2")        # in a lab's first cell
lab.guess(growth=8)
lab.measure("load/users-16/vllm/round-1", Load(vllm, prompts.short(model), Closed(users=16, requests=32)))
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

from shared.course import cell_times, checks, milestones, registry
from shared.course.guesses import guess_beside_result, record_guesses
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
    """One lab, from inside its notebook."""

    number: str
    _announced: set[str] = field(default_factory=set, repr=False)  # series of which reuse has been announced

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
        """Measure once: the result under `key` if it still stands, else `one` is run, recorded and returned.

        `one` is a Load, or a function for what is no load; it may be `async`. It returns a Run, or the values for the
        ledger, or (values, raw data). Returned is the Summary of a load, and the values of everything else;
        `lab.raw(key)` has the raw data. The other engines of this notebook are paused meanwhile.

        A result stands if nothing that makes the number has changed: the machine, the engine with its flags, the
        model, the load, the lab's code, and the notebook's functions: `one` itself and those in `uses`, with all that
        they call. `engine` is the one that a function measures (for its provenance), and `settings` are what else
        decides the number. Raises LabError for a key that can't be one, and for what is neither Load nor function.
        """
        ledger.check_key(key)  # before, not after a minute of measuring
        if not isinstance(one, Load) and not callable(one):
            raise LabError(
                f"{key}: a {type(one).__name__} can't be measured.",
                "give a Load, or the function itself: lab.measure(key, measure), not measure()",
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
        values, raw = made if isinstance(made, tuple) else (made, None)
        entry = ledger.record(self.number, key, values, engine=engine, raw=raw, uses=functions, settings=settings)
        return self._stored(key, json.loads(json.dumps(entry)))  # keys are texts, as in the ledger

    def _stored(self, key: str, entry: Entry) -> Any:
        """The same for a result that was measured just now and for one of the ledger."""
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
        """Record predictions before the measurement, one number each; `...` leaves one open."""
        return record_guesses(self.number, guesses)

    def guess_beside_result(self, measured_under: str, **results: object) -> Table:
        """Each result beside the guess of the same name; `measured_under` is the prefix of what the results rest on."""
        return guess_beside_result(self.number, measured_under, results)

    def start_engines(self, model: ModelChoice, asked: Mapping[str, Flags]) -> tuple[Engine, ...]:
        """Start these engines with these flags; one that can't start is left out, and the ledger holds the reason."""
        return participants.start_engines(self.number, model, asked)

    def attempt(self, key: str, what: str, do: Callable[[], Done]) -> Done | None:
        """What `do` returns; None where it raises LabError, with the reason recorded under `key`."""
        return participants.attempt(self.number, key, what, do)

    def milestone(self) -> milestones.Milestone:
        """Every claim of this lab, tested on the ledger."""
        return milestones.check(self.number)

    def show_milestone(self) -> None:
        """Display the milestone, with a button that tests it again."""
        milestones.live(self.number)

    def write_timeline(self, key: str) -> Path:
        """Write the requests of one load as a timeline for Perfetto, and return the file."""
        return timeline.write(self.number, key)

    def record(self, key: str, values: Mapping[str, Any], **more: Any) -> Entry:
        """Write a result that follows from others, or is quoted (see shared.results.ledger.record)."""
        return ledger.record(self.number, key, values, **more)

    def results(self, kind: str | None = "measured") -> dict[str, Entry]:
        """The entries of this lab, by key."""
        return ledger.load_results(self.number, kind)

    def values(self, key: str) -> Values:
        """The values of one result."""
        found: Values = self.results(None)[key]["values"]
        return found

    def raw(self, key: str) -> Any:
        """The raw data of one result."""
        return ledger.load_raw(self.number, key)

    def traces(self, key: str) -> list[Trace]:
        """The requests of one load."""
        return [Trace.restore(stored) for stored in self.raw(key)]

    def set_aside(self, prefix: str) -> None:
        """Make room for a new series: what is under `prefix` is kept in a folder beside."""
        ledger.set_aside(self.number, prefix)


def _result(one: Function) -> Any:
    made = one()
    return loops.in_own_loop(made) if inspect.iscoroutine(made) else made


def open(number: str) -> OpenLab:
    """Open a lab in its notebook. From now on long cells announce how long they take. Raises LabError if there is
    no such lab."""
    registry.find_lab(number)
    cell_times.announce_long_cells(number)
    return OpenLab(number)

"""Who takes part in a comparison, and why somebody doesn't.

    engines = participants.start_engines("3.3.1", model, {"llamacpp": {"-np": 32}, "vllm": {"--max-num-seqs": 32}})

An engine that can't be had here (not installed, no memory, no GPU, a flag that it refuses) costs only its own column:
it is left out, and the ledger says why. The same goes for any other part of a lab that a machine may lack (`attempt`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from shared.engines import ENGINES, Flags
from shared.errors import LabError
from shared.launch.launcher import launch
from shared.launch.running import Engine
from shared.models.choice import ModelChoice
from shared.results import ledger
from shared.results.reading import Entries

Done = TypeVar("Done")
MISSING = "missing"  # the value in the ledger that says why


def start_engines(lab: str, model: ModelChoice, asked: Mapping[str, Flags]) -> tuple[Engine, ...]:
    """Start these engines with these flags, one after the other; each one's start-up time goes into the ledger.

    Raises LabError if none could be started.
    """
    started = []
    for name, flags in asked.items():
        key = f"engine/{name}"
        engine = attempt(lab, key, ENGINES[name].title, lambda name=name, flags=flags: launch(name, model, flags))  # type: ignore[misc]
        if engine:
            ledger.record(lab, key, {"startup_s": round(engine.startup_s, 2)}, engine=engine)
            started.append(engine)
    if not started:
        raise LabError("No engine could be started.", "make engines; the reasons stand above")
    return tuple(started)


def attempt(lab: str, key: str, what: str, do: Callable[[], Done]) -> Done | None:
    """What `do` returns. Where it raises LabError: None, said and recorded under `key`."""
    try:
        return do()
    except LabError as e:
        ledger.record(lab, key, {MISSING: str(e).splitlines()[0]})
        print(f"Without {what}: {e}")
        return None


def missing(entries: Entries, prefix: str = "") -> dict[str, str]:
    """What was left out, by its key, with the reason."""
    return {
        key: e["values"][MISSING] for key, e in entries.items() if key.startswith(prefix) and MISSING in e["values"]
    }


def favourite(engines: Sequence[Engine], name: str) -> Engine:
    """This engine if it takes part, else another one: for an experiment that any will do for."""
    found = next((engine for engine in engines if engine.spec.name == name), engines[0])
    if found.spec.name != name:
        print(f"{ENGINES[name].title} doesn't take part: {found.spec.title} stands in for it.")
    return found

"""Which engines take part in a comparison, and why the others don't.

    engines = participants.start_engines("3.3.1", model, {"llamacpp": {"-np": 32}, "vllm": {"--max-num-seqs": 32}})

An engine may not be available on a machine: not installed, no memory, no GPU, or a flag that it refuses. It is then
left out, and the ledger records the reason. `attempt` does the same for any other part of a lab.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from shared.engines import ENGINES, Flags
from shared.errors import LabError
from shared.hardware.machine import Machine
from shared.launch.launcher import launch
from shared.launch.running import Engine
from shared.models.choice import ModelChoice
from shared.results import ledger
from shared.results.reading import Entries

Done = TypeVar("Done")
MISSING = "missing"  # the value in the ledger that holds the reason


def start_engines(lab: str, model: ModelChoice, asked: Mapping[str, Flags]) -> tuple[Engine, ...]:
    """Start these engines with these flags, one after the other. Each start-up time goes into the ledger.

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
        raise LabError(
            "No engine could be started; the reasons are printed above.",
            "apply the fixes printed above, then run this cell again",
        )
    return tuple(started)


def again(engine: Engine) -> Engine:
    """The engine. One that has ended is started as it was before; one that runs, or was put off, stays as it is.

    A later cell may have ended it, by starting the same engine with other flags, or another one where memory is short.
    """
    if engine.ended:
        print(f"{engine.spec.title} has ended, so it is started again with the same flags.")
        how: Any = {"draft": engine.draft, "precision": engine.precision, "cores": engine.cores}
        vars(engine).update(vars(launch(engine.spec.name, engine.model, engine.flags, **how)))
    return engine


def in_turn(
    machine: Machine, engines: Sequence[Engine], rounds: int, sizes: Sequence[int]
) -> list[tuple[int, int, Engine]]:
    """(round, size, engine) of every load. In each round, and at each size, the engines take turns.

    Where the CPU and the GPU share one memory, not all engines may fit into it. There an engine has all its loads
    before the next one begins, so that each is started once.
    """
    numbers = range(1, rounds + 1)
    if machine.unified_memory:
        return [(number, size, engine) for engine in engines for number in numbers for size in sizes]
    return [(number, size, engine) for number in numbers for size in sizes for engine in engines]


def attempt(lab: str, key: str, what: str, do: Callable[[], Done]) -> Done | None:
    """The result of `do`. If it raises LabError, print the error, record it under `key`, and return None.

    A reason that an earlier attempt recorded under `key` is set aside once `do` succeeds. Raises LabError for a key of
    a result that was typed wrong.
    """
    try:
        done = do()
    except ledger.WrongKey:
        raise
    except LabError as e:
        ledger.record(lab, key, {MISSING: str(e).splitlines()[0]})
        print(f"Without {what}: {e}")
        return None
    if key in missing(ledger.load_results(lab), key):
        ledger.set_aside(lab, key, one=True)
    return done


def missing(entries: Entries, prefix: str = "") -> dict[str, str]:
    """The reason for each part that was left out, by its key."""
    return {
        key: e["values"][MISSING] for key, e in entries.items() if key.startswith(prefix) and MISSING in e["values"]
    }


def favourite(engines: Sequence[Engine], name: str) -> Engine:
    """This engine if it takes part, else the first one: for an experiment that works with any engine."""
    found = next((engine for engine in engines if engine.spec.name == name), engines[0])
    if found.spec.name != name:
        print(f"{ENGINES[name].title} doesn't take part, so this uses {found.spec.title}.")
    return found

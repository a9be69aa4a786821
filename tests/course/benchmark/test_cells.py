"""Cells of lab 3.3.1's notebook: what they start, and how they load it."""

import ast
from itertools import pairwise
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest

from shared import results
from shared.course import checks, labs, registry
from shared.course.benchmark import experiments
from shared.engines import ENGINES
from shared.hardware import Machine, detect
from shared.hardware.machine import EFFORTS
from shared.load import Closed
from shared.models import ModelChoice
from tests import machines
from tests.helpers.ledger import fill

CELLS = [c for c in checks.notebook(registry.find_lab("3.3.1"))["cells"] if c["cell_type"] == "code"]


def source(cell: str) -> str:
    [found] = [c["source"] for c in CELLS if c["id"] == cell]
    return str(found)


def test_at_the_quick_size_nothing_is_warmed_up() -> None:
    calls = [n for c in CELLS for n in ast.walk(ast.parse(c["source"])) if isinstance(n, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func) == "Load"]
    warmed = [ast.unparse(word.value) for load in loads for word in load.keywords if word.arg == "warmup"]
    assert len(warmed) == len(loads) >= 7
    assert all("effort.warm_up" in one or one in ("warm", "False") for one in warmed), warmed
    assert "warm = Closed(users, requests=16), effort.warm_up" in source("lie-client")
    assert not EFFORTS["quick"].warm_up


def flags_of_vllm(machine: Machine) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    lab = SimpleNamespace(start_engines=lambda model, engines: asked.update(engines))
    names = {"machine": machine, "effort": machine.effort, "model": None, "users_at_once": (1, 32), "lab": lab}
    exec(source("start-engines"), names)
    return dict(asked["vllm"])


def test_vllms_prefix_cache_is_off_where_its_blocks_are_as_short_as_a_templates_opening(spark: Machine) -> None:
    """Llama's template states dates before the nonce, and a block on a GPU has 16 tokens."""
    switch = "--no-enable-prefix-caching"
    assert flags_of_vllm(spark)[switch] is True
    assert switch not in flags_of_vllm(detect(machines.machine("no-gpu")))  # lab 3.3.2 goes on with this server


@pytest.mark.parametrize("where", ["no-gpu", "dgx-spark"])
def test_every_engine_gets_every_load_and_on_a_spark_is_started_once_for_all_of_them(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = detect(machines.machine(where))
    keys: list[str] = []
    names: dict[str, Any] = {
        "machine": machine, "effort": machine.effort, "model": None, "users_at_once": (1, 32),
        "engines": tuple(SimpleNamespace(spec=ENGINES[name]) for name in ("llamacpp", "vllm")), "Closed": Closed,
        "Load": lambda *_, **more: None, "prompts": SimpleNamespace(short=lambda *_: None, long=lambda *_: None),
        "lab": SimpleNamespace(measure=lambda key, load: keys.append(key)),
    }  # fmt: skip
    for cell, count in (("run-load", 2), ("run-prompts", len(machine.effort.prompt_tokens))):
        keys.clear()
        exec(source(cell), names)
        assert len(set(keys)) == len(keys) == 5 * count * 2
        measured = [key.split("/")[2] for key in keys]
        changes = sum(a != b for a, b in pairwise(measured))
        assert changes == (1 if where == "dgx-spark" else len(keys) - 1)
        assert capsys.readouterr().out.splitlines() == [f"round {n} of 5 recorded" for n in range(1, 6)]


ALL = [(engine, users) for engine in ("llamacpp", "vllm") for users in (1, 32)]


@pytest.mark.parametrize(
    ("mute", "name"),
    [
        ([], "llamacpp"),
        (ALL[:2], "vllm"),
        ([("llamacpp", 32)], "vllm"),
        ([("llamacpp", 1), ("vllm", 32)], ""),
        (ALL, ""),
    ],
)
def test_waiting_counted_as_prefill_is_shown_of_an_engine_whose_cache_is_counted(
    mute: list[tuple[str, int]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {(engine, users): [900.0 / users] for engine, users in ALL if (engine, users) not in mute}
    recorded: list[str] = []
    engines = [SimpleNamespace(spec=ENGINES[e]) for e in ("llamacpp", "vllm")]
    names: dict[str, Any] = {
        "query": SimpleNamespace(rounds=lambda entries, value: rates), "entries": {}, "engines": engines,
        "llamacpp": engines[0], "users_at_once": (1, 32), "median": median, "lie": experiments.lie,
        "show": lambda table: None, "lie_table": lambda shown: None,
        "lab": SimpleNamespace(record=lambda key, shown, engine: recorded.append(engine.spec.name)),
    }  # fmt: skip
    exec(source("lie-queueing"), names)
    assert recorded == ([name] if name else [])
    assert ("no prefill rate is known" in capsys.readouterr().out) == (not name)


def run_precisions() -> list[tuple[str, bool]]:
    """Run the cell on engines that are none. Returns which forms were started, and whether only when needed."""
    started: list[tuple[str, bool]] = []

    def launch(*_: object, precision: str, when_needed: bool, **more: object) -> str:
        started.append((precision, when_needed))
        return precision

    lab = labs.open("3.3.1")
    names: dict[str, Any] = {
        "launch": launch, "Closed": Closed, "Load": lambda *_, **more: None, "engines": (), "model": None,
        "slots": 32, "context": 2304, "effort": EFFORTS["quick"],
        "prompts": SimpleNamespace(short=lambda *_: None, long=lambda *_: None),
        "lab": SimpleNamespace(results=lab.results, attempt=lab.attempt, measure=lambda *_: None),
    }  # fmt: skip
    exec(source("run-precisions"), names)
    assert names["loaded"] == ["BF16", "Q8_0", "Q4_0"]
    return started


def test_forms_that_were_judged_are_not_started_for_nothing() -> None:
    first = run_precisions()
    assert first[:3] == [("BF16", False), ("Q8_0", False), ("Q4_0", False)]  # can they start on this machine?
    assert all(when_needed for _, when_needed in first[3:])
    fill({"llamacpp": 10})
    assert all(when_needed for _, when_needed in run_precisions())


def test_bf16_is_compared_with_the_reference_once(model: ModelChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(experiments, "check_greedy", refuse)
    fill({"llamacpp": 10})
    lab = labs.open("3.3.1")
    names: dict[str, Any] = {
        "loaded": ["BF16"], "start": lambda form: None, "model": model, "reference": None,
        "lab": SimpleNamespace(results=lab.results, values=lab.values, raw=lab.raw, attempt=lambda *_: 37.0,
                               measure=lambda key, one, engine: seen.append((key, one()))),
    }  # fmt: skip
    seen: list[tuple[str, Any]] = []
    exec(source("judge-precisions"), names)
    before = lab.values("greedy/llamacpp")
    more = {"bytes": model.decode_bytes("BF16"), "perplexity": 37.0}
    assert seen == [("quality/BF16", ({**before, **more}, lab.raw("greedy/llamacpp")))]
    results.set_aside("3.3.1", "greedy/")
    with pytest.raises(AssertionError, match="asked again"):
        exec(source("judge-precisions"), names)

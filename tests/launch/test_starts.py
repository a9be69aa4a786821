"""Several engines that start at the same moment: all with the first use, none after the block, whatever happens."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from shared import LabError
from shared.engines import Draft
from shared.engines.http import post_json
from shared.hardware import detect
from shared.launch import alone, launch, launcher, starts, stop_all, together
from shared.launch.process import Adopted
from shared.launch.running import Engine, PutOff
from shared.models import ModelChoice
from shared.processes import start_time

pytestmark = pytest.mark.programs

SLOT = {"-np": 1, "-c": 512}
NGRAM = Draft("ngram", 4)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    stop_all()


def put_off(model: ModelChoice, draft: Draft | None = None, **more: object) -> PutOff:
    """llama.cpp on one core."""
    flags = {**SLOT, **{f"--{name.replace('_', '-')}": value for name, value in more.items()}}
    engine = launch("llamacpp", model, flags, draft=draft, cores=1, quiet=True, when_needed=True, beside=True)
    assert isinstance(engine, PutOff)
    return engine


def test_the_first_use_starts_all_and_each_ends_with_its_own_block(model: ModelChoice) -> None:
    plain, drafting = put_off(model), put_off(model, NGRAM)
    with together([plain, drafting]):
        assert not launcher._running
        with plain:
            assert plain.url
            assert drafting.started is False  # its own object takes it over with its first use
            assert [engine.alive for engine in launcher._running.values()] == [True, True]
        assert plain.ended
        with drafting:
            assert drafting.alive is False
            assert drafting.draft == NGRAM
            assert drafting.process.pid != plain.process.pid
            assert drafting.alive
    assert drafting.ended


def test_nothing_starts_without_a_use(model: ModelChoice) -> None:
    with together([put_off(model), put_off(model, NGRAM)]):
        pass
    assert not launcher._running


def test_an_engine_that_is_never_used_ends_with_the_block(model: ModelChoice) -> None:
    plain, drafting = put_off(model), put_off(model, NGRAM)
    with contextlib.suppress(RuntimeError), together([plain, drafting]):
        assert plain.url
        raise RuntimeError("a cell's own error")
    assert [engine.alive for engine in launcher._running.values()] == [False, False]


def test_one_that_does_not_start_leaves_the_others(model: ModelChoice) -> None:
    good, bad = put_off(model), put_off(model, NGRAM, no_such_flag=1)
    with together([good, bad]):
        assert good.url
        assert good.alive
        with pytest.raises(LabError, match="ended while starting"):
            _ = bad.url
    assert good.ended


def test_each_engine_has_its_turn_in_every_round(model: ModelChoice) -> None:
    plain, drafting = engines = put_off(model), put_off(model, NGRAM)
    seen = []
    with together(engines) as turns:
        for number, engine in turns(2):
            assert engine.url
            seen.append((number, engine, len(launcher._running)))
    assert seen == [(1, plain, 2), (1, drafting, 2), (2, plain, 2), (2, drafting, 2)]
    assert [plain.ended, drafting.ended] == [True, True]


def test_where_memory_is_short_each_has_all_its_turns_and_ends_before_the_next_starts(
    model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, drafting = engines = put_off(model), put_off(model, NGRAM)
    one = plain.need.total
    monkeypatch.setattr("shared.launch.starts.detect", lambda: replace(detect(), available_gib=1.5 * one))
    seen = []
    with together(engines) as turns:
        for number, engine in turns(2):
            assert engine.url
            seen.append((number, engine, [one.alive for one in engines]))
    alone, after = [True, False], [False, True]
    assert seen == [(1, plain, alone), (2, plain, alone), (1, drafting, after), (2, drafting, after)]
    assert drafting.ended


def test_where_not_all_fit_those_of_one_kind_run_side_by_side(
    model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("vllm", "llamacpp", "vllm", "llamacpp")
    asked = [launch(name, model, when_needed=True, beside=True, quiet=True) for name in kinds]
    first, plain, second, drafting = asked

    def grouped(available_gib: float) -> list[list[Engine]]:
        monkeypatch.setattr("shared.launch.starts.detect", lambda: replace(detect(), available_gib=available_gib))
        return starts.groups(asked)

    assert grouped(100) == [asked]
    assert grouped(first.need.total + second.need.total) == [[first, second], [plain, drafting]]
    assert grouped(first.need.total) == [[first], [second], [plain, drafting]]
    assert grouped(plain.need.total) == [[first], [second], [plain], [drafting]]


def test_where_memory_is_short_none_is_left_behind_an_error(
    model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, drafting = engines = put_off(model), put_off(model, NGRAM)
    monkeypatch.setattr("shared.launch.starts.fit", lambda _: False)
    with contextlib.suppress(RuntimeError), together(engines) as turns:
        for _, engine in turns(2):
            assert engine.url
            raise RuntimeError("a cell's own error")
    assert plain.ended
    assert not drafting.started


def test_an_engine_that_was_taken_over_twice_is_not_paused_for_itself(model: ModelChoice) -> None:
    """Where notebooks share engines, it may have been launched with `beside` first, and then without."""
    with put_off(model) as engine:
        assert engine.url
        again = Adopted(engine.process.pid, start_time(engine.process.pid))
        launcher._running["llamacpp"] = replace(launcher._running["llamacpp with None"], process=again)
        for one in (engine, launcher._running["llamacpp"]):
            with alone(one):
                assert post_json(engine.url + "/tokenize", {"content": "a word"}, 10)["tokens"]


@pytest.mark.parametrize("at_once", [1, 2])
def test_ctrl_c_ends_the_starts(model: ModelChoice, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """The engines are still loading, which takes vLLM half a minute. One that waits for the others doesn't start."""
    monkeypatch.setattr("shared.launch.launcher.get", lambda *_: None)  # never ready
    monkeypatch.setattr("shared.launch.starts.SLOW_S", 0 if at_once == 2 else 100)
    plain, drafting = put_off(model), put_off(model, NGRAM)

    def interrupt() -> None:
        while len(launcher._running) < at_once:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), together([plain, drafting]):
        _ = plain.url
    assert time.monotonic() - began < 60
    assert [engine.alive for engine in launcher._running.values()] == [False] * at_once

"""Faults happen when requested and end; the measurements until then are kept."""

import pytest

from shared import load, metrics
from shared.launch import launch
from shared.load import Closed, Load, faults
from shared.load.prompts import short
from shared.models import ModelChoice
from tests.helpers.processes import eventually


class Stalling:
    """An engine that records when it was paused."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def pause(self) -> None:
        self.seen.append("paused")

    def resume(self) -> None:
        self.seen.append("resumed")


def test_a_stall_ends_by_itself_or_with_the_block() -> None:
    engine = Stalling()
    with faults.stall(engine, after_s=0.02, for_s=0.02):  # type: ignore[arg-type]
        assert eventually(lambda: engine.seen == ["paused", "resumed"])
    engine = Stalling()
    with faults.stall(engine, after_s=0.01, for_s=60):  # type: ignore[arg-type]
        assert eventually(lambda: engine.seen == ["paused"])
    assert engine.seen == ["paused", "resumed"]
    engine = Stalling()
    with faults.stall(engine, after_s=60, for_s=1):  # type: ignore[arg-type]
        pass
    assert engine.seen == []


@pytest.mark.engine
def test_a_load_on_an_engine_that_dies_keeps_its_partial_result(model: ModelChoice) -> None:
    engine = launch("llamacpp", model, {"-np": 4, "-c": 2048}, quiet=True)
    with faults.death(engine, after_tokens=24), pytest.raises(load.Died, match="ended during the load") as died:
        load.run(Load(engine, short(model), Closed(users=2, requests=400), max_tokens=8))
    assert not engine.alive
    found = metrics.summarise(died.value.run)
    assert 0 < found.failed < 20  # of 400: what was under way, and what a server without its engine still refused
    assert 24 // 8 - 2 <= found.requests - found.failed < 400
    assert found.first_error
    assert found.output_tokens == 8 * (found.requests - found.failed)

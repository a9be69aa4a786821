"""Trouble comes when it is asked for, and passes; what was measured until then is kept."""

import time

import pytest

from shared import LabError, load, metrics, trouble
from shared.api import counters
from shared.launch import launch
from shared.models import ModelChoice
from shared.prompts import short


class Stalling:
    """An engine that notes when it was held still."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def pause(self) -> None:
        self.seen.append("paused")

    def resume(self) -> None:
        self.seen.append("resumed")


def test_a_stall_ends_by_itself_or_with_the_block() -> None:
    engine = Stalling()
    with trouble.stall(engine, after_s=0.02, for_s=0.02):  # type: ignore[arg-type]
        time.sleep(0.2)
        assert engine.seen == ["paused", "resumed"]
    engine = Stalling()
    with trouble.stall(engine, after_s=0.01, for_s=60):  # type: ignore[arg-type]
        time.sleep(0.1)
    assert engine.seen == ["paused", "resumed"]
    engine = Stalling()
    with trouble.stall(engine, after_s=60, for_s=1):  # type: ignore[arg-type]
        pass
    assert engine.seen == []


@pytest.mark.engine
def test_a_load_on_an_engine_that_dies_keeps_its_partial_result(model: ModelChoice) -> None:
    flags = {"--max-num-seqs": 4, "--max-model-len": 512, "--enforce-eager": True}
    with launch("vllm", model, flags, quiet=True) as engine:
        begin = counters(engine)["generated_tokens"]
        with trouble.death(engine, after_tokens=24):
            run = load.closed(trouble.outlived(engine), short(model), users=2, requests=12, max_tokens=8)
        assert not engine.alive
        assert begin >= 1
        found = metrics.summarise(run)
        assert found.requests == 12
        assert 0 < found.failed < 12
        assert found.first_error
        assert found.output_tokens == 8 * (12 - found.failed)
        with pytest.raises(LabError, match="died under the load"):
            load.closed(engine, short(model), users=1, requests=2, max_tokens=4)

"""A load reports whether other programs took the cores that its engine needed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared import load
from shared.load import Closed, Load, Run, prompts
from shared.load.self_check import others_cpu_s
from shared.metrics import summarise
from shared.metrics.validity import OTHERS_SHARE_LIMIT, disturbance
from tests.helpers.truth import MODEL, TruthEngine

pytestmark = pytest.mark.alone  # it holds measured times against true ones

SECONDS = 2.0


@contextmanager
def another(*program: str) -> Iterator[int]:
    """The id of a program that is neither the engine nor this process."""
    process = subprocess.Popen(program)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def share_of_others(engine: TruthEngine) -> float:
    engine.plan(ttft_s=0.01, gap_s=0.005)
    run = load.run(Load(engine, prompts.short(MODEL), Closed(users=2, seconds=SECONDS), max_tokens=20))
    assert run.others_cpu_share is not None
    assert summarise(run).disturbed == disturbance(run)
    return run.others_cpu_share


def test_another_programs_core_is_noticed_and_our_own_are_not(tmp_path: Path) -> None:
    with TruthEngine.start(tmp_path / "log") as engine:
        alone = share_of_others(engine)  # other things may run on a test machine: compared, not judged
        with another(sys.executable, "-c", "while True: pass"):
            beside = share_of_others(engine)
    core = 1 / (os.cpu_count() or 1)
    assert beside - alone > 0.5 * core
    assert 0 <= alone < beside < 1.1


def test_the_engines_own_work_is_not_others(tmp_path: Path) -> None:
    with TruthEngine.start(tmp_path / "log") as engine, another("sleep", "60") as idle:
        engine.plan(ttft_s=0.001, gap_s=0.0)
        before_s = others_cpu_s(engine.process.pid), others_cpu_s(idle)
        load.run(Load(engine, prompts.short(MODEL), Closed(users=16, seconds=SECONDS), max_tokens=400))
        others_s = others_cpu_s(engine.process.pid) - before_s[0]
        with_engine_s = others_cpu_s(idle) - before_s[1]
    assert with_engine_s - others_s > 0.2 * SECONDS  # the truth server was busy


@pytest.mark.parametrize(("share", "said"), [(None, None), (0.0, None), (OTHERS_SHARE_LIMIT, None), (0.4, "40 %")])
def test_what_disturbs(share: float | None, said: str | None) -> None:
    found = disturbance(Run((), 1, 1, "none", {}, 0.0, others_cpu_share=share))
    assert (found is None) if said is None else (found is not None and said in found)

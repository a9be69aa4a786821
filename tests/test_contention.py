"""A load says whether other programs took the cores that its engine was to have."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from truth import MODEL, TruthEngine

from shared import load, prompts
from shared.contention import SHARE_LIMIT, Contention, disturbance
from shared.metrics import summarise

SECONDS = 2.0


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many programs that do nothing but take a core each."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def share_of_others(engine: TruthEngine) -> float:
    engine.plan(ttft_s=0.01, gap_s=0.005)
    run = load.closed(engine, prompts.short(MODEL), users=2, seconds=SECONDS, max_tokens=20)
    assert run.others_cpu_share is not None
    assert summarise(run).disturbed == disturbance(run.others_cpu_share)
    return run.others_cpu_share


def test_another_programs_core_is_noticed_and_our_own_are_not(tmp_path: Path) -> None:
    with TruthEngine.start(tmp_path / "log") as engine:
        alone = share_of_others(engine)  # other things may run on a test machine: compared, not judged
        with spinning(1):
            beside = share_of_others(engine)
    core = 1 / (os.cpu_count() or 1)
    assert beside - alone > 0.5 * core
    assert 0 <= alone < beside < 1.1


def test_the_engines_own_work_is_not_others(tmp_path: Path) -> None:
    with TruthEngine.start(tmp_path / "log") as engine, subprocess.Popen(["sleep", "60"]) as idle:
        engine.plan(ttft_s=0.001, gap_s=0.0)
        watch, mistaken = Contention(engine.process.pid), Contention(idle.pid)
        load.closed(engine, prompts.short(MODEL), users=16, seconds=SECONDS, max_tokens=400)
        others, with_engine = watch.others_share(), mistaken.others_share()
        idle.kill()
    assert with_engine - others > 0.1  # of all cores: the truth server was busy


@pytest.mark.parametrize(("share", "said"), [(None, None), (0.0, None), (SHARE_LIMIT, None), (0.4, "40 %")])
def test_what_disturbs(share: float | None, said: str | None) -> None:
    found = disturbance(share)
    assert (found is None) if said is None else (found is not None and said in found)

"""Many users need many open files: the limit is raised as far as it may be, and else the number needed is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared import paths

USERS = """
import resource, sys
from pathlib import Path
soft, hard, users = map(int, sys.argv[1:4])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from shared import LabError, load
from shared.load import Closed, Load, Poisson, prompts
from tests.helpers.truth import MODEL, TruthEngine
rhythm = Closed(users=users, requests=users) if sys.argv[4] == "closed" else Poisson(rate_per_s=1e5, requests=users)
with TruthEngine.start(Path(sys.argv[5])) as engine:
    engine.plan(ttft_s=1.0)
    try:
        run = load.run(Load(engine, prompts.short(MODEL), rhythm, max_tokens=2, warmup=False))
        print(sum(trace.error is None for trace in run.traces), "answers")
    except LabError as e:
        print(e)
"""


def load_under(soft: int, hard: int, users: int, rhythm: str, tmp_path: Path) -> str:
    """What a load prints in a process with these limits of open files; the engine inherits them."""
    command = [sys.executable, "-c", USERS, str(soft), str(hard), str(users), rhythm, str(tmp_path / "log")]
    env = {**os.environ, "LABS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=paths.REPO, env=env, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("rhythm", ["closed", "open"])
def test_a_low_soft_limit_is_raised_for_the_client_and_for_the_server(tmp_path: Path, rhythm: str) -> None:
    assert load_under(128, 4096, 200, rhythm, tmp_path).endswith("200 answers\n")


def test_a_hard_limit_that_is_too_low_is_named_with_the_number_needed(tmp_path: Path) -> None:
    said = load_under(128, 128, 200, "closed", tmp_path)
    assert "A load of The truth server, 200 users needs 2" in said
    assert " open files, but this process may have only 128.\nFix: choose at most " in said
    most = int(said.split("choose at most ")[1].split()[0])
    assert load_under(128, 128, most - 5, "closed", tmp_path).endswith(f"{most - 5} answers\n")

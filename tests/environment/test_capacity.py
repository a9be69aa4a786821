"""`make capacity`: the answer from a ledger, and errors that name what to change."""

import os
import re
import subprocess
import sys

import pytest

from environment.capacity import INPUTS, demand_of, read_inputs
from shared import LabError, paths
from shared.metrics import Slo
from shared.metrics.capacity import Demand
from tests.helpers import quiet_ledger


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-m", "environment.capacity", *words]
    env = {**os.environ, "LABS_PROFILE": "cpu"}
    return subprocess.run(program, cwd=paths.REPO, env=env, capture_output=True, text=True)


def test_a_ledger_answers() -> None:
    quiet_ledger.record_loads()
    quiet_ledger.record_bandwidth()
    quiet_ledger.record_open_loops()
    done = run("USERS=200", "PROMPT=46", "OUTPUT=32", "TPOT=47", "TTFT=934", "THINK=10")
    assert (done.returncode, done.stderr) == (0, "")
    assert "By default: SHARE=90 ENGINE=vllm PER_MACHINE=1" in done.stdout
    found = re.search(
        r"^200 users: (\d+) engines on (\d+) machines\. .* The limit is time \(TPOT\)\.$", done.stdout, re.M
    )
    assert found
    assert found[1] == found[2]
    assert f"| engines                          | {found[1]} " in done.stdout
    assert "throughput off by at most" in done.stdout
    assert "open/percent-80" in done.stdout
    many = run("USERS=200", "PROMPT=46", "OUTPUT=32", "TPOT=47", "TTFT=934", "THINK=10", f"PER_MACHINE={found[1]}")
    assert f"{found[1]} engines on 1 machine." in many.stdout


def test_without_a_test_of_the_model_the_answer_is_given_all_the_same() -> None:
    quiet_ledger.record_loads((1, 4, 8, 16))
    quiet_ledger.record_bandwidth()
    done = run()
    assert done.returncode == 0
    assert (
        "The error on this machine is not known. To leave one number of users out, five must be measured" in done.stdout
    )
    assert re.search(r"^30 users: ", done.stdout, re.M)
    assert "The loads had prompts of 46 tokens and answers of 32." in done.stdout


def test_an_empty_ledger_names_the_cells() -> None:
    done = run("USERS=200")
    assert done.returncode == 1
    assert "Fix: run the cell `run-load` of lab 3.3.2 or the cell `run-load` of lab 3.3.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_input() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in INPUTS)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("USERS=many", "USERS is 'many', but must be a whole number"),
        ("USERS=", "USERS is '', but must be a whole number"),
        ("PROMPT=1.5", "PROMPT is '1.5', but must be a whole number"),
        ("THINK=soon", "THINK is 'soon', but must be a number"),
        ("USER=3", "USER is no input of this command"),
        ("200", "200 is no input of this command"),
        ("USERS=0", "The number of users is 0"),
        ("SHARE=100", "100 % of the requests"),
        ("TTFT=nan", "The limit of TTFT is nan ms"),
    ],
)
def test_a_wrong_input_is_named(word: str, message: str) -> None:
    defaults = {name: one.default for name, one in INPUTS.items()}
    with pytest.raises(LabError, match=re.escape(message)):
        demand_of(defaults | read_inputs([word]))


def test_inputs_make_a_demand() -> None:
    given = {name: one.default for name, one in INPUTS.items()} | read_inputs(["USERS=7", "THINK=2.5", "SHARE=95"])
    assert demand_of(given) == Demand(7, 500, 200, 2.5, Slo(2000, 100), 0.95)


def test_make_passes_only_what_is_typed() -> None:
    """A shell's own variables have no effect."""
    env = {**os.environ, "OUTPUT": "/dev/null", "USERS": "root"}
    command = ["make", "--no-print-directory", "--dry-run", "capacity", "USERS=200", "THINK=5"]
    done = subprocess.run(command, cwd=paths.REPO, env=env, capture_output=True, text=True)
    assert done.stdout.split()[-3:] == ["environment.capacity", '"USERS=200"', '"THINK=5"']

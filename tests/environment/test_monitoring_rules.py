"""The alerts: each fires in a case of its own, alone, and a healthy gateway with a busy minute sets off none.

promtool plays made-up series through the rules, one value each 15 s for 20 minutes, and asks which alerts fire.
"""

import subprocess
from pathlib import Path

import pytest
import yaml

from environment import debian_programs
from shared import paths

pytestmark = pytest.mark.programs

FOLDER = paths.REPO / "environment" / "monitoring"
UP, ENGINE = 'up{job="gateway"}', 'gateway:engine_up{engine="one"}'
RUNNING, SEATS = 'gateway:num_requests_running{engine="one"}', 'gateway:engine_seats{engine="one"}'
WAITING = 'gateway:num_requests_waiting{model_name="m"}'
IN_TIME = 'gateway:time_to_first_token_seconds_bucket{model_name="m",le="2.5"}'
ALL = 'gateway:time_to_first_token_seconds_count{model_name="m"}'
GOOD, FAILED, REFUSED = (f'gateway:requests_total{{model_name="m",status="{status}"}}' for status in (200, 502, 429))
HEALTHY = {  # start+step×count
    UP: "1x80", ENGINE: "1x80", SEATS: "32x80",
    RUNNING: "8x40 32x4 8x36", WAITING: "0x40 1+1x3 0x36",
    IN_TIME: "0+98x80", ALL: "0+100x80", GOOD: "0+100x80", FAILED: "0+2x80", REFUSED: "0+90x80",
}  # fmt: skip
SILENT = dict.fromkeys(HEALTHY, "_x80")
CASES = [
    ("FirstTokenLate", {IN_TIME: "0+80x80"}),
    ("AnswersFail", {FAILED: "0+8x80"}),
    ("AnswersFail", {GOOD.replace("200", "broken"): "0+8x80"}),
    ("EngineDown", {ENGINE: "1x40 0x40", RUNNING: "8x40 0x40"}),
    ("QueueGrows", {WAITING: "0x40 1+1x40"}),
    ("Saturated", {RUNNING: "8x40 32x40"}),
    ("NothingScraped", {name: values + " stale" for name, values in HEALTHY.items()} | {UP: "1x40 0x40"}),
    ("NothingScraped", SILENT),
]


def promtool(*arguments: str, cwd: Path) -> str:
    """What promtool prints. Fails the test if it finds a mistake."""
    program = debian_programs.ensure("promtool")
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def play(folder: Path, series: dict[str, str], minutes: range, fires: str) -> None:
    """Fail unless exactly these alerts fire at each of these minutes."""
    expected = [{"labels": f'{{alertname="{fires}"}}', "value": 1}] if fires else []
    asked = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "exp_samples": expected}
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{**asked, "eval_time": f"{minute}m"} for minute in minutes],
    }
    file = folder / "case.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "rules.yml")], "tests": [case]}))
    promtool("test", "rules", file.name, cwd=folder)


def test_configuration_and_rules_are_valid() -> None:
    assert "1 rule files found" in promtool("check", "config", "prometheus.yml", cwd=FOLDER)
    rules = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == {name for name, _ in CASES}, "an alert without its case"
    assert all(rule["annotations"].keys() == {"summary", "action"} for rule in rules)


def test_a_healthy_gateway_sets_off_no_alert(tmp_path: Path) -> None:
    play(tmp_path, HEALTHY, range(1, 20), "")


@pytest.mark.parametrize(("alert", "change"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_an_alert_fires_alone(tmp_path: Path, alert: str, change: dict[str, str]) -> None:
    play(tmp_path, HEALTHY | change, range(18, 20), alert)


def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="FAILED"):
        play(tmp_path, HEALTHY, range(18, 19), "EngineDown")

"""Open WebUI for real: in front of the real Ollama, and driven through its own page in Chromium."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import LabError, paths
from shared.course import labs
from shared.course.gateway import running as gateways
from shared.course.gateway import student_gateway
from shared.course.labs import OpenLab
from shared.course.webui import browser_checks, open_webui, open_webui_experiments
from shared.course.webui.exercises.open_webui import right_in_force, right_switched_off
from shared.course.webui.in_chromium.any_page import ANY
from shared.course.webui.in_chromium.ollama_relay import OllamaRelay
from shared.launch.running import Engine
from shared.processes import descendants, start_time
from tests.helpers.webui import wait_for

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def relay(ollama: Engine) -> Iterator[OllamaRelay]:
    with OllamaRelay(ollama.url) as relay:
        yield relay
    open_webui.stop_all()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenLab:
    monkeypatch.setenv("LABS_RESULTS", str(tmp_path))
    return labs.open("3.3.6")


def test_a_model_without_tools_fails_in_its_page_until_they_are_switched_off(
    lab: OpenLab, relay: OllamaRelay, ollama: Engine
) -> None:
    found = open_webui_experiments.tools(lab, relay, ollama, right_switched_off)
    assert "does not support tools" in found["shown_before"]
    assert (found["answered_before"], found["answered_after"]) == (False, True)
    assert found["tools_before"] > found["tools_after"] == 0
    raw = lab.raw("open-webui/tools")
    assert raw["switched_off"] == ["builtin_tools", "vision"]
    assert open_webui_experiments.read_tools(raw) == found


def test_hidden_requests_are_counted_at_ollama(lab: OpenLab, relay: OllamaRelay, ollama: Engine) -> None:
    found = open_webui_experiments.hidden(lab, relay, ollama)
    assert found["off"] == [1, 1]
    assert sorted(found["kinds"][0]) == ["follow-ups", "tags", "title"]  # a new chat gets a title and tags, too
    assert found["kinds"][1] == ["follow-ups"]
    assert found["on"] == [1 + len(kinds) for kinds in found["kinds"]]
    assert open_webui_experiments.read_hidden(lab.raw("open-webui/hidden")) == found


def test_what_it_adds_to_ttft_is_measured_in_turn(lab: OpenLab, relay: OllamaRelay, ollama: Engine) -> None:
    found = open_webui_experiments.added(lab, relay, ollama, rounds=2)
    raw = lab.raw("open-webui/added")
    assert [len(raw[way]) for way in ("direct", "through")] == [found["rounds"]] * 2 == [2, 2]
    sent = [one.body["messages"][-1]["content"] for one in relay.asked[-6:]]
    assert len(set(sent)) == 6, "each prompt is a new one"
    assert open_webui_experiments.read_added(raw) == found


def test_the_gateway_is_a_second_connection(lab: OpenLab, relay: OllamaRelay, ollama: Engine) -> None:
    gateway = student_gateway.start(labs.open("3.3.5"), ollama)
    try:
        found = open_webui_experiments.connection(lab, relay, ollama, gateway.url)
    finally:
        gateways.stop_all()
    assert found["error"] is None
    assert found["text"]
    assert all(name.startswith("gateway.") for name in found["models"])
    assert not [one for one in open_webui.before(relay.url).models() if one.startswith("gateway.")]


def test_it_passes_what_any_chat_page_must_do(lab: OpenLab, relay: OllamaRelay, ollama: Engine) -> None:
    found = open_webui_experiments.checks(lab, relay, ollama)
    raw = lab.raw("browser/open-webui")
    assert found["verdicts"].keys() == ANY.keys()
    failed = {name: browser_checks.came(name, raw[name]) for name, passed in found["verdicts"].items() if not passed}
    assert failed == {}


def test_variables_are_ignored_after_the_first_start(lab: OpenLab, relay: OllamaRelay, ollama: Engine) -> None:
    found = open_webui_experiments.settings(lab, relay, ollama, right_in_force)  # restarts it, and ends it
    assert found["right"] == found["of"] == 2 * len(open_webui_experiments.SETTINGS)
    assert found["ignored"] == ["ENABLE_FOLLOW_UP_GENERATION", "ENABLE_TAGS_GENERATION", "ENABLE_CHANNELS"]
    assert found["sign_up_open"] == {"True": "False", "False": "True"}
    raw: dict[str, Any] = lab.raw("open-webui/settings")
    raw["predicted"]["True"] = dict(open_webui_experiments.NOW, ENABLE_SIGNUP="True")  # as if the environment won
    assert open_webui_experiments.read_settings(raw)["right"] == found["of"] - len(found["ignored"]) - 1


def test_it_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from shared.course.webui import open_webui; open_webui.start()"]
    owner = subprocess.Popen(program, cwd=paths.REPO, env={**os.environ, "TMPDIR": str(tmp_path)})
    started = wait_for(lambda: (found := descendants(owner.pid)) and len(found) >= 2 and found)  # watchdog and server
    known = {pid: start_time(pid) for pid in started}
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    wait_for(lambda: not [pid for pid, since in known.items() if start_time(pid) == since])


def test_without_it_the_reason_and_the_command_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    assert "make open-webui" in open_webui.absent()
    with pytest.raises(LabError, match=r"(?s)not installed.*make open-webui"):
        open_webui.start()

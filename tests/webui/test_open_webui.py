"""Open WebUI for real, in front of the real Ollama. What its page does is in test_open_webui_page.py."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import LabError, paths
from shared.course import labs
from shared.course.gateway import running as gateways
from shared.course.gateway import student_gateway
from shared.course.labs import OpenLab
from shared.course.webui import open_webui, open_webui_experiments
from shared.course.webui.in_chromium.ollama_relay import OllamaRelay
from shared.launch.running import Engine
from shared.processes import descendants, start_time
from tests.helpers.webui import wait_for

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def relay(ollama: Engine) -> Iterator[OllamaRelay]:
    with OllamaRelay(ollama.url) as relay:
        yield relay
    open_webui.stop()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenLab:
    monkeypatch.setenv("LABS_RESULTS", str(tmp_path))
    return labs.open("3.3.6")


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

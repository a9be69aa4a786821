"""Open WebUI's page, driven in Chromium in front of the real Ollama: what lab 3.3.6 has recorded, looked at closely.

It runs after nbval has run the lab and its solution (tests/helpers/nbval_plugin.py), on their results. Where there are
none, the experiments are done here.
"""

import os
from typing import Any

import pytest

from shared.course import labs
from shared.course.labs import OpenLab
from shared.course.webui import browser_checks, open_webui, open_webui_experiments
from shared.course.webui.exercises.open_webui import right_in_force, right_switched_off
from shared.course.webui.in_chromium.any_page import ANY
from shared.course.webui.in_chromium.ollama_relay import OllamaRelay

pytestmark = [pytest.mark.engine, pytest.mark.browser]

RESULTS = os.environ.get("LABS_RESULTS", "")  # of the whole run; a test's own folder replaces it
KEYS = {"open-webui/tools", "open-webui/hidden", "open-webui/settings", "browser/open-webui"}


@pytest.fixture
def lab(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> OpenLab:
    own = tmp_path_factory.getbasetemp() / "open-webui"  # for all tests of this file
    for folder in filter(None, (RESULTS, str(own))):
        monkeypatch.setenv("LABS_RESULTS", folder)
        found = labs.open("3.3.6")
        if found.results().keys() >= KEYS:
            return found
    do_all(found, request)
    return found


def do_all(lab: OpenLab, request: pytest.FixtureRequest) -> None:
    ollama = request.getfixturevalue("ollama")
    with OllamaRelay(ollama.url) as relay:
        try:
            open_webui_experiments.tools(lab, relay, ollama, right_switched_off)
            open_webui_experiments.hidden(lab, relay, ollama)
            open_webui_experiments.checks(lab, relay, ollama)
            open_webui_experiments.settings(lab, relay, ollama, right_in_force)
        finally:
            open_webui.stop()


def test_a_model_without_tools_fails_in_its_page_until_they_are_switched_off(lab: OpenLab) -> None:
    found = lab.values("open-webui/tools")
    assert "does not support tools" in found["shown_before"]
    assert (found["answered_before"], found["answered_after"]) == (False, True)
    assert found["tools_before"] > found["tools_after"] == 0
    raw = lab.raw("open-webui/tools")
    assert raw["switched_off"] == ["builtin_tools", "vision"]
    assert open_webui_experiments.read_tools(raw) == found


def test_hidden_requests_are_counted_at_ollama(lab: OpenLab) -> None:
    found = lab.values("open-webui/hidden")
    assert found["off"] == [1, 1]
    assert sorted(found["kinds"][0]) == ["follow-ups", "tags", "title"]  # a new chat gets a title and tags, too
    assert found["kinds"][1] == ["follow-ups"]
    assert found["on"] == [1 + len(kinds) for kinds in found["kinds"]]
    assert open_webui_experiments.read_hidden(lab.raw("open-webui/hidden")) == found


def test_it_passes_what_any_chat_page_must_do(lab: OpenLab) -> None:
    found, raw = lab.values("browser/open-webui"), lab.raw("browser/open-webui")
    assert found["verdicts"].keys() == ANY.keys()
    failed = {name: browser_checks.came(name, raw[name]) for name, passed in found["verdicts"].items() if not passed}
    assert failed == {}


def test_variables_are_ignored_after_the_first_start(lab: OpenLab) -> None:
    found = lab.values("open-webui/settings")
    assert found["right"] == found["of"] == 2 * len(open_webui_experiments.SETTINGS)
    assert found["ignored"] == ["ENABLE_FOLLOW_UP_GENERATION", "ENABLE_TAGS_GENERATION", "ENABLE_CHANNELS"]
    assert found["sign_up_open"] == {"True": "False", "False": "True"}
    raw: dict[str, Any] = lab.raw("open-webui/settings")
    raw["predicted"]["True"] = dict(open_webui_experiments.NOW, ENABLE_SIGNUP="True")  # as if the environment won
    assert open_webui_experiments.read_settings(raw)["right"] == found["of"] - len(found["ignored"]) - 1

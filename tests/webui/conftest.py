"""Servers of the page that the tests of this folder share: in front of a scripted engine, and of the real Ollama."""

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from shared.hardware import host
from shared.launch import launch
from shared.launch.running import Engine
from shared.models import ModelChoice
from tests.helpers.webui import Scripted, WebUI, running


@pytest.fixture(scope="session")
def scripted_engine() -> Scripted:
    return Scripted(int(os.environ.get("WEBUI_ENGINE_PORT", "0")))


@pytest.fixture
def scripted(scripted_engine: Scripted) -> Scripted:
    """An engine that answers as the test prescribes."""
    scripted_engine.reset()
    return scripted_engine


@pytest.fixture(scope="session")
def ui(scripted_engine: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """The page's server in front of the scripted engine."""
    with running(tmp_path_factory.mktemp("ui"), scripted_engine.url, leave_s=5, save_s=0.1) as webui:
        yield webui


@pytest.fixture(scope="session")
def ollama(model: ModelChoice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The real Ollama with one seat, and a store of its own: these tests delete models."""
    flags = {"OLLAMA_NUM_PARALLEL": 1, "OLLAMA_MODELS": str(tmp_path_factory.mktemp("ollama"))}
    engine = launch("ollama", model, flags, precision="Q8_0", cores=1, quiet=True)
    yield engine
    engine.end()


@pytest.fixture(scope="session")
def real(ollama: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """The page's server in front of the real Ollama."""
    with running(tmp_path_factory.mktemp("real"), ollama.url) as webui:
        yield webui


@pytest.fixture(scope="module")  # while it is open, this thread can start no other
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)  # the tests' machine may be busy
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=host.browser(), args=["--no-sandbox"])
        yield browser
        browser.close()

"""Pulls by the real Ollama from a registry on this machine: progress, cancel, resume, errors."""

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from shared.launch.running import Engine
from tests.helpers.standin_registry import Registry
from tests.helpers.webui import WebUI, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture
def registry(ollama: Engine, real: WebUI) -> Registry:
    return Registry(Path(str(ollama.flags["OLLAMA_MODELS"])))


def forget(ollama: Engine) -> None:
    """Delete the model, and so its files: what is pulled next is downloaded."""
    body = {"model": ollama.served_name}
    httpx.request("DELETE", f"{ollama.url}/api/delete", json=body, timeout=60, trust_env=False)


def test_a_pull_shows_its_progress_is_cancelled_and_goes_on(
    chromium: Browser, real: WebUI, ollama: Engine, registry: Registry, tmp_path: Path
) -> None:
    # The registry's store is a copy, because the model is deleted from Ollama's own.
    store = tmp_path / "store"
    for file in registry.store.rglob("*"):
        if file.is_file() and ".ollama" not in file.parts:
            copy = store / file.relative_to(registry.store)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.hardlink_to(file)
    registry.store, registry.most_bytes = store, 30_000_000
    forget(ollama)
    name = f"{registry.address}/library/{ollama.served_name}"
    page = chromium.new_page(base_url=real.url)
    page.goto("/")
    expect(page.locator("#lanes select")).to_have_count(1)
    page.get_by_role("button", name="Models").click()
    page.get_by_label("Name of the model to pull").fill(name)
    page.get_by_role("button", name="Pull", exact=True).click()
    expect(page.locator("#pulls")).to_contain_text(re.compile(r"\d+ MB of \d+ MB"))
    wait_for(lambda: registry.served_bytes >= 30_000_000)
    page.reload()  # the server owns the pull
    page.get_by_role("button", name="Models").click()
    expect(page.locator("#pulls progress")).to_be_visible()
    page.get_by_label(f"Cancel {name}").click()
    expect(page.locator("#pulls")).to_contain_text("what was downloaded is kept")
    before = registry.served_bytes
    registry.most_bytes = None
    page.get_by_label(f"Resume {name}").click()
    expect(page.locator("#installed")).to_contain_text(name, timeout=120_000)
    expect(page.locator("#pulls li")).to_have_count(0)
    size = sum(file.stat().st_size for file in (store / "blobs").iterdir())
    assert registry.served_bytes - before < size - 15_000_000  # the second time only the rest was downloaded
    page.close()
    chat = real.new_chat(f"ollama:{name}", parameters={"num_predict": 3})
    assert real.whole(real.ask(chat, "Hello"))["state"] == "done"
    body = {"source": name, "destination": ollama.served_name}
    httpx.post(f"{ollama.url}/api/copy", json=body, timeout=60, trust_env=False)


def test_a_model_that_the_registry_lacks_is_an_error_with_a_fix(real: WebUI, registry: Registry) -> None:
    name = f"{registry.address}/library/nothing:latest"
    real.api("POST", "/api/models/pull", {"name": name})

    def failed() -> str:
        pulls = real.api("GET", "/api/models")["pulls"]
        return next((one["status"] for one in pulls if one["name"] == name and one["state"] == "failed"), "")

    assert "Fix: Check its name and tag" in wait_for(failed)
    real.api("POST", "/api/models/cancel-pull", {"name": name})
    assert name not in str(real.api("GET", "/api/models")["pulls"])

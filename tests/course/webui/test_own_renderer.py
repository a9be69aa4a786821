"""A student's renderer in the browser: it gets the whole stream, and a broken one is named."""

import pytest

from shared import LabError
from shared.course import checks, registry
from shared.course.webui import own_renderer, render_lag
from shared.course.webui.in_chromium import chromium
from shared.course.webui.in_chromium.ollama_relay import OllamaRelay
from shared.course.webui.render_lag import Raw, Stream

pytestmark = pytest.mark.browser
SHORT = Stream(render_lag.WORDS, 50, 1)


def probed(text: str) -> Raw:
    with OllamaRelay() as relay:
        return chromium.run(lambda browser: own_renderer.probe(browser, text, relay, SHORT))


def solution() -> str:
    """The renderer of the solution notebook."""
    [cell] = [c for c in checks.notebook(registry.find_lab("3.3.6"))["cells"] if c["id"] == "my-renderer-solution"]
    names: dict[str, str] = {}
    exec(cell["source"], names)
    return names["my_renderer"]


@pytest.mark.parametrize("text", [own_renderer.NAIVE, pytest.param(None, id="solution")])
def test_a_renderer_draws_every_word(text: str | None) -> None:
    found = render_lag.values(probed(text or solution()))
    assert found["drawn"] == found["sent"] == SHORT.count


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("export function renderer(root) {", "SyntaxError"),
        ("export const other = 1;", "not a function"),
        ("export const renderer = () => ({write() { throw new Error('too hard'); }, end() {}});", "too hard"),
    ],
)
def test_a_broken_renderer_is_named_with_its_error(text: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_lag, "LEFT_BEHIND_S", 1)
    with pytest.raises(LabError, match=f"Your renderer failed in the browser: .*{reason}"):
        probed(text)

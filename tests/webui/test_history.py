"""The history: search, export, import, and how large it may be."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.webui import Scripted, WebUI, running


def file_of(*texts: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[place % 2], "text": text} for place, text in enumerate(texts)]
    return {"format": "inference-labs-webui/1", "chats": [{"title": "Imported", "messages": messages, **more}]}


def newest(ui: WebUI) -> int:
    return int(max(chat["id"] for chat in ui.api("GET", "/api/chats")["chats"]))


def test_words_of_questions_and_answers_are_found(ui: WebUI, scripted: Scripted) -> None:
    scripted.text("The zeppelin landed in Zürich.")
    chat = ui.new_chat()
    ui.whole(ui.ask(chat, "Where did the dirigible land?"))
    for words in ("zeppelin", "ZEPPE", "zurich landed", "dirig"):
        [hit] = ui.api("GET", f"/api/search?q={words}")["found"]
        assert hit["opens"] == chat
    [hit] = ui.api("GET", "/api/search?q=zeppelin")["found"]
    assert "\x01zeppelin\x02" in hit["snippet"]
    ui.api("DELETE", f"/api/chats/{chat}")
    assert ui.api("GET", "/api/search?q=zeppelin")["found"] == []


@pytest.mark.parametrize(
    "words", ['"', "a AND", "NEAR(", "*", "col:x", "^x", "-", "(", "'; DROP TABLE messages; --", "%", "\\"]
)
def test_operators_of_the_search_engine_are_only_characters(ui: WebUI, words: str) -> None:
    assert ui.client.get("/api/search", params={"q": words}).status_code == 200


def test_an_export_is_imported_as_it_was(ui: WebUI, scripted: Scripted) -> None:
    chat = ui.new_chat(system="Be kind.", parameters={"seed": 3})
    ui.whole(ui.ask(chat, "A question"))
    response = ui.client.get(f"/api/export?chat={chat}")
    assert "attachment" in response.headers["content-disposition"]
    ui.api("POST", "/api/import", response.json())
    [lane] = ui.api("GET", f"/api/chats/{newest(ui)}")["lanes"]
    assert (lane["system"], lane["parameters"], lane["title"]) == ("Be kind.", {"seed": 3}, "A question")
    assert [one["text"] for one in lane["messages"]] == ["A question", "Hello."]
    assert [one["target"] for one in lane["messages"]] == ["", "ollama:simulated"]


def test_markdown_is_for_reading(ui: WebUI, scripted: Scripted) -> None:
    chat = ui.new_chat(system="Be kind.")
    ui.whole(ui.ask(chat, "A *question*"))
    response = ui.client.get(f"/api/export?chat={chat}&form=md")
    assert response.headers["content-type"].startswith("text/markdown")
    assert "> System prompt: Be kind." in response.text
    assert "## You\n\nA *question*\n\n## ollama:simulated\n\nHello." in response.text


WRONG: dict[str, Any] = {
    "no format": {"chats": []},
    "another role": {
        "format": "inference-labs-webui/1",
        "chats": [{"title": "x", "messages": [{"role": "system", "text": "x"}]}],
    },
    "a long text": file_of("x" * (2**20 + 1)),
    "a wrong parameter": file_of("x", parameters={"temperature": 99}),
    "a list": [],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_adds_nothing(ui: WebUI, name: str) -> None:
    before = ui.api("GET", "/api/chats")
    assert ui.problem("POST", "/api/import", WRONG[name])["status"] == 422
    assert ui.api("GET", "/api/chats") == before


def test_imports_and_messages_have_limits(scripted: Scripted, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"most_import_bytes": 200_000, "most_import_messages": 100, "most_text_bytes": 10_000}
    with running(tmp_path, scripted.url, **limits) as ui:
        assert ui.problem("POST", "/api/import", file_of(*["x"] * 101))["status"] == 413
        assert ui.problem("POST", "/api/import", file_of("x" * 200_000))["status"] == 413
        ui.api("POST", "/api/import", file_of(*["x"] * 100))
        chat = ui.new_chat()
        assert ui.problem("POST", f"/api/chats/{chat}/messages", {"text": "x" * 11_000})["status"] == 413
        # Without Content-Length the bytes are counted as they come.
        body = iter([json.dumps(file_of("y" * 300_000)).encode()])
        headers = {"content-type": "application/json"}
        assert ui.client.post("/api/import", content=body, headers=headers).status_code == 413


def test_a_long_history_opens_at_its_end_and_is_read_backwards(ui: WebUI, scripted: Scripted) -> None:
    ui.api("POST", "/api/import", file_of(*[f"Message {n}" for n in range(1000)]))
    chat = newest(ui)
    [lane] = ui.api("GET", f"/api/chats/{chat}")["lanes"]
    assert [lane["messages"][0]["text"], lane["messages"][-1]["text"]] == ["Message 940", "Message 999"]
    assert lane["more"]
    [lane] = ui.api("GET", f"/api/chats/{chat}?before={lane['messages'][0]['id']}")["lanes"]
    assert [lane["messages"][0]["text"], lane["messages"][-1]["text"]] == ["Message 880", "Message 939"]
    [hit] = ui.api("GET", "/api/search?q=Message 123")["found"]
    [lane] = ui.api("GET", f"/api/chats/{chat}?at={hit['id']}")["lanes"]
    assert "Message 123" in [one["text"] for one in lane["messages"]]
    assert lane["more"]
    assert lane["later"]


def test_ten_thousand_messages_are_opened_and_searched(ui: WebUI) -> None:
    ui.api("POST", "/api/import", file_of(*[f"Note {n} about the weather" for n in range(10_000)]))
    chat = newest(ui)
    began = time.monotonic()
    [lane] = ui.api("GET", f"/api/chats/{chat}")["lanes"]
    opened = time.monotonic()
    found = ui.api("GET", "/api/search?q=weather 9999")["found"]
    searched = time.monotonic()
    assert len(lane["messages"]) == 60
    assert len(found) == 1
    print(f"opened in {1e3 * (opened - began):.0f} ms, searched in {1e3 * (searched - opened):.0f} ms")
    ui.api("DELETE", f"/api/chats/{chat}")


def test_system_prompts_are_saved_replaced_and_forgotten(ui: WebUI) -> None:
    ui.api("PUT", "/api/prompts", {"name": "Pirate", "text": "Arr."})
    assert ui.api("PUT", "/api/prompts", {"name": "Pirate", "text": "Arr!"})["prompts"] == [
        {"name": "Pirate", "text": "Arr!"}
    ]
    assert ui.api("PUT", "/api/prompts", {"name": "Pirate", "text": ""})["prompts"] == []


def test_chats_are_renamed_and_their_settings_changed(ui: WebUI) -> None:
    chat = ui.new_chat()
    ui.api("PATCH", f"/api/chats/{chat}", {"title": "New name", "parameters": {"top_p": 0.5}})
    [lane] = ui.api("GET", f"/api/chats/{chat}")["lanes"]
    assert (lane["title"], lane["parameters"]) == ("New name", {"top_p": 0.5})
    problem = ui.problem("PATCH", f"/api/chats/{chat}", {"parameters": {"temperature": -1}})
    assert "temperature" in problem["what"]


def test_only_its_owner_can_read_the_history(scripted: Scripted, tmp_path: Path) -> None:
    with running(tmp_path, scripted.url) as ui:
        ui.new_chat()
        file = tmp_path / "data" / "history.sqlite"
        assert file.stat().st_mode & 0o077 == 0
        with sqlite3.connect(file) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)

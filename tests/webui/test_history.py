"""The history: search, export, import, and how large it may be."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.webui import LAST, Scripted, WebUI, line, running, said


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


def test_figures_notes_and_times_survive_an_export(ui: WebUI, scripted: Scripted) -> None:
    chat = ui.new_chat()
    ui.whole(ui.ask(chat, "First"))
    scripted.status, scripted.blocks = 500, [b'{"error": "out of memory"}']
    ui.whole(ui.ask(chat, "Second"))
    ui.api("POST", "/api/import", ui.client.get(f"/api/export?chat={chat}").json())
    before, after = (ui.api("GET", f"/api/chats/{one}")["lanes"][0] for one in (chat, newest(ui)))
    assert newest(ui) != chat
    assert after["created"] == before["created"]
    for old, new in zip(before["messages"], after["messages"], strict=True):
        assert {name: new[name] for name in ("state", "note", "created")} == {
            name: old[name] for name in ("state", "note", "created")
        }
    [_, old, _, failed] = before["messages"]
    assert failed["state"] == "failed"
    stats = after["messages"][1]["stats"]
    assert stats["ttft_ms"] == old["stats"]["ttft_ms"]
    assert {"tok_s", "prompt_tokens", "output_tokens", "total_ms"} <= stats.keys()


def test_versions_survive_an_export(ui: WebUI, scripted: Scripted) -> None:
    chat = ui.new_chat()
    ui.whole(first := ui.ask(chat, "One"))
    scripted.text("Another.")
    ui.whole(ui.api("POST", f"/api/chats/{chat}/regenerate", {"message": first})["answer"])
    ui.api("POST", f"/api/chats/{chat}/switch", {"message": first})
    ui.api("POST", "/api/import", ui.client.get(f"/api/export?chat={chat}").json())
    copy = newest(ui)
    [_, shown] = ui.api("GET", f"/api/chats/{copy}")["lanes"][0]["messages"]
    assert shown["text"] == "Hello."  # the version that was on the screen
    [_, other] = shown["versions"]
    [lane] = ui.api("POST", f"/api/chats/{copy}/switch", {"message": other})["lanes"]
    assert lane["messages"][-1]["text"] == "Another."


def test_a_pair_survives_an_export_and_half_of_one_stands_alone(ui: WebUI, scripted: Scripted) -> None:
    chat = ui.new_chat("ollama:simulated", "ollama:other")
    file = ui.client.get(f"/api/export?chat={chat}").json()
    ui.api("POST", "/api/import", file)
    copy = newest(ui)
    assert copy != chat
    assert [lane["target"] for lane in ui.api("GET", f"/api/chats/{copy}")["lanes"]] == [
        "ollama:simulated",
        "ollama:other",
    ]
    ui.api("POST", "/api/import", {**file, "chats": file["chats"][1:]})
    assert newest(ui) == copy + 2
    [lane] = ui.api("GET", f"/api/chats/{copy + 2}")["lanes"]
    assert lane["target"] == "ollama:other"


def test_an_answer_that_is_exported_while_it_is_written_is_marked(ui: WebUI, scripted: Scripted) -> None:
    scripted.hang, scripted.blocks = True, scripted.blocks[:-1]
    answer = ui.ask(chat := ui.new_chat(), "Talk.")
    events = ui.listen(answer)
    next(events)  # a page that listens, so that the answer goes on
    file = ui.client.get(f"/api/export?chat={chat}").json()
    ui.api("POST", f"/api/answers/{answer}/stop")
    list(events)
    ui.api("POST", "/api/import", file)
    message = ui.api("GET", f"/api/chats/{newest(ui)}")["lanes"][0]["messages"][-1]
    assert message["state"] == "stopped"
    assert "exported" in message["note"]


def test_an_export_with_a_very_long_answer_can_be_imported(ui: WebUI, scripted: Scripted) -> None:
    """A question has a limit, an answer has none: an engine without a limit of tokens may write for hours."""
    scripted.blocks = [said("x" * 2**18)] * 5 + [line(LAST)]
    message = ui.whole(ui.ask(chat := ui.new_chat(), "Talk."))
    file = ui.client.get(f"/api/export?chat={chat}").json()
    ui.api("POST", "/api/import", file)
    [lane] = ui.api("GET", f"/api/chats/{newest(ui)}")["lanes"]
    assert lane["messages"][-1]["text"] == message["text"] == "x" * (5 * 2**18)


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
    "a long question": file_of("x" * (2**20 + 1)),
    "a wrong parameter": file_of("x", parameters={"temperature": 99}),
    "a parent that comes later": file_of("x", messages=[{"role": "user", "text": "x", "parent": 0}]),
    "a last message that is not there": file_of("x", leaf=1),
    "a time that no calendar has": file_of("x", created=1e300),
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
    assert [lane["messages"][0]["text"], lane["messages"][-1]["text"]] == ["Message 970", "Message 999"]
    assert lane["more"]
    [lane] = ui.api("GET", f"/api/chats/{chat}?before={lane['messages'][0]['id']}")["lanes"]
    assert [lane["messages"][0]["text"], lane["messages"][-1]["text"]] == ["Message 940", "Message 969"]
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
    assert len(lane["messages"]) == 30
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


def test_nothing_is_changed_by_a_null(ui: WebUI) -> None:
    chat = ui.new_chat(system="Be kind.", parameters={"seed": 3})
    nulls: dict[str, Any] = {"title": None, "target": None, "system": None, "parameters": None}
    [lane] = ui.api("PATCH", f"/api/chats/{chat}", nulls)["lanes"]
    assert (lane["title"], lane["system"], lane["parameters"]) == ("New chat", "Be kind.", {"seed": 3})


@pytest.mark.parametrize("path", ["chats/{}", "chats/1?before={}", "answers/{}/events", "export?chat={}"])
def test_a_number_that_sqlite_cannot_hold_is_not_found(ui: WebUI, path: str) -> None:
    assert ui.problem("GET", f"/api/{path.format(10**20)}")["status"] == 404


def test_only_its_owner_can_read_the_history(scripted: Scripted, tmp_path: Path) -> None:
    with running(tmp_path, scripted.url) as ui:
        ui.new_chat()
        file = tmp_path / "data" / "history.sqlite"
        assert file.stat().st_mode & 0o077 == 0
        with sqlite3.connect(file) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)

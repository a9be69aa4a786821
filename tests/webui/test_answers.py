"""Answers belong to the server: stopped, left, reloaded, and after a crash. Over real sockets."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.processes import descendants, free_port
from tests.helpers.webui import LAST, TREE, Scripted, WebUI, line, running, said, wait_for


def test_an_answer_is_the_engines_text_wherever_the_network_cuts_it(ui: WebUI, scripted: Scripted) -> None:
    text = "Grüße, 世界! 🙂 " * 20
    scripted.text(text, piece=5)
    stream = b"".join(scripted.blocks)
    scripted.blocks = [stream[at : at + 7] for at in range(0, len(stream), 7)]  # half a line, half a character
    message = ui.whole(ui.ask(ui.new_chat(), "Say it."))
    assert message["text"] == text
    assert message["state"] == "done"
    assert message["stats"]["output_tokens"] == LAST["eval_count"]
    assert message["stats"]["prompt_tokens"] == LAST["prompt_eval_count"]
    assert message["stats"]["tok_s"] == 30.0  # 3 tokens in 10^8 ns, by the engine's own clock
    assert message["stats"]["context_length"] == 4096


def test_the_engine_gets_the_path_of_the_chat_its_system_prompt_and_parameters(ui: WebUI, scripted: Scripted) -> None:
    chat = ui.new_chat(system="You are brief.", parameters={"temperature": 0.5, "num_ctx": 512, "keep_alive": "-1"})
    ui.whole(ui.ask(chat, "One"))
    ui.whole(ui.ask(chat, "Two"))
    [_, request] = scripted.requests
    said_so_far = [("system", "You are brief."), ("user", "One"), ("assistant", "Hello."), ("user", "Two")]
    assert [(one["role"], one["content"]) for one in request["messages"]] == said_so_far
    assert request["options"] == {"temperature": 0.5, "num_ctx": 512}
    assert request["keep_alive"] == -1


def test_stop_closes_the_connection_to_the_engine(ui: WebUI, scripted: Scripted) -> None:
    scripted.hang = True
    scripted.blocks = [said("Some text ")]
    answer = ui.ask(ui.new_chat(), "Talk.")
    events = ui.listen(answer)
    assert next(events)["text"] == "Some text "
    assert scripted.open == 1
    assert ui.api("POST", f"/api/answers/{answer}/stop") == {"stopped": True}
    wait_for(lambda: scripted.open == 0)
    message = list(events)[-1]["message"]
    assert (message["state"], message["text"]) == ("stopped", "Some text ")
    assert ui.api("POST", f"/api/answers/{answer}/stop") == {"stopped": False}


def test_of_two_questions_at_the_same_time_one_is_answered(scripted: Scripted, tmp_path: Path) -> None:
    scripted.hang, scripted.blocks = True, []
    with running(tmp_path, scripted.url) as ui:  # `ui` soon stops an answer that no page listens to
        chat = ui.new_chat()

        def ask(number: int) -> int:
            body = {"text": f"Question {number}"}
            return ui.client.post(f"/api/chats/{chat}/messages", json=body).status_code

        with ThreadPoolExecutor(8) as at_once:
            assert sorted(at_once.map(ask, range(8))) == [200, *[409] * 7]
        wait_for(lambda: scripted.open == 1)
        assert len(scripted.requests) == 1
        scripted.cut()


def test_the_events_of_an_answer_that_is_gone_are_not_found(ui: WebUI) -> None:
    found = ui.problem("GET", "/api/answers/999999/events")
    assert (found["status"], found["what"]) == (404, "This message does not exist any more.")


def test_a_second_start_on_the_same_port_leaves_the_first_alone(ui: WebUI, scripted: Scripted, tmp_path: Path) -> None:
    scripted.hang, scripted.blocks = True, [said("Running.")]
    with running(tmp_path, scripted.url) as first:
        answer = first.ask(first.new_chat(), "Talk.")
        events = first.listen(answer)
        assert next(events)["text"] == "Running."
        env = {"PYTHONPATH": str(TREE), "WEBUI_PORT": str(first.port), "WEBUI_DATA": str(tmp_path / "data")}
        command = [sys.executable, "-m", "webui"]
        second = subprocess.run(command, cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True)
        assert second.returncode == 1
        assert f"Port {first.port} of 127.0.0.1 can't be used" in second.stderr
        assert "--port" in second.stderr
        first.api("POST", f"/api/answers/{answer}/stop")
        assert list(events)[-1]["message"]["state"] == "stopped"


def test_a_second_server_leaves_the_data_of_the_first_alone(scripted: Scripted, tmp_path: Path) -> None:
    """On another port, but with the same folder: it would mark the first one's running answers as lost."""
    scripted.hang, scripted.blocks = True, [said("Running.")]
    env = {"PYTHONPATH": str(TREE), "WEBUI_DATA": str(tmp_path / "data"), "WEBUI_PORT": str(free_port())}
    with running(tmp_path, scripted.url) as first:
        answer = first.ask(first.new_chat(), "Talk.")
        events = first.listen(answer)
        assert next(events)["text"] == "Running."
        command = [sys.executable, "-m", "webui"]
        second = subprocess.Popen(command, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True)
        try:
            _, said_why = second.communicate(timeout=30)
        finally:
            second.kill()
        assert second.returncode == 1
        assert f"Another server of this page uses {tmp_path / 'data'}" in said_why
        assert "--data" in said_why
        [lane] = first.api("GET", f"/api/chats/{first.api('GET', '/api/chats')['chats'][0]['id']}")["lanes"]
        assert lane["messages"][-1]["state"] == "running"
        first.api("POST", f"/api/answers/{answer}/stop")
        assert list(events)[-1]["message"]["state"] == "stopped"


def test_a_server_that_is_ended_sends_its_pages_the_end_of_their_answers(scripted: Scripted, tmp_path: Path) -> None:
    scripted.hang, scripted.blocks = True, [said("Running.")]
    with running(tmp_path, scripted.url) as webui:
        events = webui.listen(webui.ask(webui.new_chat(), "Talk."))
        assert next(events)["text"] == "Running."
        os.kill(descendants(webui.process.pid)[0], signal.SIGTERM)
        message = list(events)[-1]["message"]  # a stream that is cut after two seconds ends without it
        assert (message["state"], message["text"]) == ("stopped", "Running.")
        assert "The server was shut down" in message["note"]
        assert wait_for(lambda: not descendants(webui.process.pid))
        assert "Traceback" not in webui.log.read_text()


def test_a_save_that_comes_late_does_not_undo_the_end(tmp_path: Path) -> None:
    """`stop` does not wait for a save that a thread has begun; which of the two comes last is chance."""
    code = """if True:
        import pathlib, webui.history
        history = webui.history.History(pathlib.Path("history.sqlite"))
        chat = history.new_chats(["ollama:simulated"], "", {})
        answer = history.add(chat, None, "assistant", "", "ollama:simulated", "running")
        history.save(answer, "All of it.", "", "stopped", "A note.", {"pieces": 2})
        history.save(answer, "All", "", "running")
        print(history.message(answer))"""
    env = {**os.environ, "PYTHONPATH": str(TREE)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "'text': 'All of it.'" in done.stdout, done.stderr
    assert "'state': 'stopped'" in done.stdout


def test_half_a_character_of_an_engine_is_replaced(ui: WebUI, scripted: Scripted) -> None:
    """JSON can hold one, UTF-8 and SQLite can't."""
    scripted.blocks = [b'{"message": {"content": "Half \\ud83d"}}\n', said(" and 🙂"), line(LAST)]
    message = ui.whole(ui.ask(ui.new_chat(), "Talk."))
    assert (message["state"], message["text"]) == ("done", "Half \ufffd and 🙂")


def test_an_answer_can_be_stopped_before_its_first_token(ui: WebUI, scripted: Scripted) -> None:
    scripted.hang, scripted.blocks = True, []
    answer = ui.ask(ui.new_chat(), "Talk.")
    wait_for(lambda: scripted.asked)
    ui.api("POST", f"/api/answers/{answer}/stop")
    wait_for(lambda: scripted.open == 0)
    assert ui.whole(answer)["state"] == "stopped"


def test_an_answer_that_no_page_listens_to_any_more_is_stopped(ui: WebUI, scripted: Scripted) -> None:
    scripted.hang = True
    scripted.blocks = [said("Kept.")]
    answer = ui.ask(ui.new_chat(), "Talk.")
    with contextlib.closing(ui.listen(answer)) as events:
        assert next(events)["text"] == "Kept."
    wait_for(lambda: scripted.open == 0)  # leave_s is 5 here
    message = ui.whole(answer)
    assert (message["state"], message["text"]) == ("stopped", "Kept.")
    assert "No page was open" in message["note"]


def test_a_page_that_comes_back_gets_all_of_the_answer_and_goes_on(ui: WebUI, scripted: Scripted) -> None:
    scripted.gap_s = 0.1
    text = "abcdefgh" * 8
    scripted.text(text)
    answer = ui.ask(ui.new_chat(), "Talk.")
    with contextlib.closing(ui.listen(answer)) as events:
        assert text.startswith(next(events)["text"])
    assert ui.whole(answer)["text"] == text
    assert len(scripted.requests) == 1


def test_two_pages_see_the_same_answer(ui: WebUI, scripted: Scripted) -> None:
    scripted.gap_s = 0.02
    scripted.text("abcdefgh" * 8)
    answer = ui.ask(ui.new_chat(), "Talk.")
    first, second = ui.listen(answer), ui.listen(answer)
    next(first)
    next(second)
    assert list(first)[-1] == list(second)[-1]


def test_a_page_that_reads_slowly_gets_all_of_the_answer(ui: WebUI, scripted: Scripted) -> None:
    """What comes while a page reads waits for it. Pieces so large fill the buffers of the sockets."""
    scripted.blocks = [said(letter * 2**18) for letter in "abcdefghij" * 5] + [line(LAST)]
    seen = ""
    for event in ui.listen(ui.ask(ui.new_chat(), "Talk.")):
        seen += event.get("text", "")
        time.sleep(1 if len(seen) < 2**20 else 0)
    assert event["message"]["state"] == "done"
    assert (len(seen), seen == event["message"]["text"]) == (50 * 2**18, True)


def test_a_crash_of_the_server_loses_only_what_was_not_saved(scripted: Scripted, tmp_path: Path) -> None:
    scripted.hang = True
    # The second block comes when a save is due. The third is not read before that save is done.
    scripted.blocks = [said("This was "), said("saved. "), said("More.")]
    scripted.gap_s = 0.5
    with running(tmp_path, scripted.url, save_s=0.1) as webui:
        answer = webui.ask(webui.new_chat(), "Talk.")
        seen = webui.listen(answer)
        while "More." not in next(seen)["text"]:
            pass
        webui.kill()
    with running(tmp_path, scripted.url) as webui:
        message = webui.whole(answer)
        assert message["state"] == "lost"
        assert message["text"].startswith("This was saved. ")
        assert "Regenerate" in message["note"]
        assert [hit["id"] for hit in webui.api("GET", "/api/search?q=saved")["found"]] == [answer]
        scripted.reset()
        chat = message["chat"]
        again = webui.api("POST", f"/api/chats/{chat}/regenerate", {"message": answer})["answer"]
        assert webui.whole(again)["text"] == "Hello."


FAILURES: dict[str, tuple[int, list[bytes], str, str]] = {
    "no model": (404, [b'{"error": "model \'x\' not found"}'], "not found", "Pull it"),
    "out of memory": (
        500,
        [b'{"error": "model requires more system memory (9.1 GiB) than is available (2.0 GiB)"}'],
        "more system memory",
        "smaller model",
    ),
    "error in mid-stream": (200, [said("Half"), b'{"error": "CUDA error: out of memory"}\n'], "CUDA", "smaller model"),
    "cut": (200, [said("Half")], "ended in mid-answer", "Regenerate"),
    "not JSON": (200, [b"<html>hello</html>\n"], "not JSON", "address of Ollama"),
    "no text": (503, [b""], "503", "log of Ollama"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_says_what_happened_and_what_to_do(ui: WebUI, scripted: Scripted, name: str) -> None:
    scripted.status, scripted.blocks, what, fix = FAILURES[name]
    message = ui.whole(ui.ask(ui.new_chat(), "Talk."))
    assert message["state"] == "failed"
    assert message["text"] == ("Half" if said("Half") in scripted.blocks else "")
    assert what in message["note"]
    assert fix in message["note"].partition("Fix: ")[2]


def test_an_ollama_that_does_not_run_is_named_with_the_command_that_starts_it(tmp_path: Path) -> None:
    with running(tmp_path, "http://127.0.0.1:9") as webui:
        message = webui.whole(webui.ask(webui.new_chat(), "Talk."))
        assert message["state"] == "failed"
        assert "ollama serve" in message["note"]
        assert "WEBUI_OLLAMA" in message["note"]
        [problem] = webui.api("GET", "/api/models")["problems"]
        assert "ollama serve" in problem["fix"]


def test_a_chat_writes_one_answer_at_a_time(ui: WebUI, scripted: Scripted) -> None:
    scripted.hang, scripted.blocks = True, [said("Text")]
    chat = ui.new_chat()
    answer = ui.ask(chat, "Talk.")
    events = ui.listen(answer)
    next(events)  # a page that listens, so that the answer goes on
    assert ui.problem("POST", f"/api/chats/{chat}/messages", {"text": "Again"})["status"] == 409
    ui.api("POST", f"/api/answers/{answer}/stop")
    assert list(events)[-1]["message"]["state"] == "stopped"


def roles(lane: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["role"], one["text"]) for one in lane["messages"]]


def test_regenerated_answers_and_edited_questions_are_versions(ui: WebUI, scripted: Scripted) -> None:
    chat = ui.new_chat()
    first = ui.ask(chat, "Question")
    ui.whole(first)
    scripted.text("Second.")
    second = ui.api("POST", f"/api/chats/{chat}/regenerate", {"message": first})["answer"]
    assert ui.whole(second)["versions"] == [first, second]
    [lane] = ui.api("GET", f"/api/chats/{chat}")["lanes"]
    assert roles(lane) == [("user", "Question"), ("assistant", "Second.")]
    assert lane["messages"][-1]["versions"] == [first, second]
    question = lane["messages"][0]["id"]
    ui.whole(ui.ask(chat, "Better question", instead_of=question))
    [lane] = ui.api("GET", f"/api/chats/{chat}")["lanes"]
    assert roles(lane) == [("user", "Better question"), ("assistant", "Second.")]
    assert len(lane["messages"][0]["versions"]) == 2
    [lane] = ui.api("POST", f"/api/chats/{chat}/switch", {"message": question})["lanes"]
    assert roles(lane) == [("user", "Question"), ("assistant", "Second.")]
    [lane] = ui.api("POST", f"/api/chats/{chat}/switch", {"message": first})["lanes"]
    assert roles(lane) == [("user", "Question"), ("assistant", "Hello.")]
    assert [m["content"] for m in scripted.requests[-1]["messages"]] == ["Better question"]


def test_a_message_of_another_chat_is_refused(ui: WebUI, scripted: Scripted) -> None:
    chat, other = ui.new_chat(), ui.new_chat()
    ui.whole(ui.ask(other, "Two questions"))
    ui.whole(second := ui.ask(other, "in one chat"))
    for path in ("regenerate", "switch"):
        assert ui.problem("POST", f"/api/chats/{chat}/{path}", {"message": second})["status"] == 400
    body = {"text": "x", "instead_of": second}
    assert ui.problem("POST", f"/api/chats/{chat}/messages", body)["status"] == 400


def test_compare_asks_both_and_keeps_them_as_one_entry(ui: WebUI, scripted: Scripted) -> None:
    lanes = ui.api("POST", "/api/chats", {"targets": ["ollama:simulated", "ollama:other"]})["lanes"]
    left, right = (lane["id"] for lane in lanes)
    for lane in (left, right):
        ui.whole(ui.ask(lane, "The same question"))
    assert [request["model"] for request in scripted.requests] == ["simulated", "other"]
    listed = [chat["id"] for chat in ui.api("GET", "/api/chats")["chats"]]
    assert left in listed
    assert right not in listed
    scripted.hang, scripted.blocks = True, []
    slow = ui.ask(right, "Only the right one still writes")
    assert ui.api("GET", "/api/chats")["running"] == [left]  # so the list marks the pair
    ui.api("POST", f"/api/answers/{slow}/stop")
    ui.api("DELETE", f"/api/chats/{left}")
    assert ui.problem("GET", f"/api/chats/{right}")["status"] == 404


def test_thinking_is_kept_apart(ui: WebUI, scripted: Scripted) -> None:
    scripted.blocks.insert(0, json.dumps({"message": {"thinking": "Let me see."}}).encode() + b"\n")
    message = ui.whole(ui.ask(ui.new_chat(), "Think."))
    assert (message["thinking"], message["text"]) == ("Let me see.", "Hello.")

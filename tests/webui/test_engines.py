"""Other engines than Ollama: what speaks OpenAI's API, alone and beside Ollama."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shared.launch.running import Engine
from tests.helpers import gateway
from tests.helpers.truth import TruthEngine
from tests.helpers.webui import Scripted, WebUI, running


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    engine = TruthEngine.start(tmp_path_factory.mktemp("truth") / "log")
    with engine:
        yield engine


@pytest.fixture
def both(truth: TruthEngine, scripted: Scripted, tmp_path: Path) -> Iterator[WebUI]:
    """The page's server with an Ollama and a gateway."""
    with running(tmp_path, scripted.url, gateway=f"{truth.url}/v1", gateway_key="sk-mine") as ui:
        yield ui


def test_both_engines_are_listed_and_asked(both: WebUI, truth: TruthEngine) -> None:
    targets = both.api("GET", "/api/models")["targets"]
    [served] = [one for one in targets if one.startswith("gateway:")]
    assert "ollama:simulated" in targets
    lanes = both.api("POST", "/api/chats", {"targets": ["ollama:simulated", served], "parameters": {"num_predict": 8}})
    left, right = (both.whole(both.ask(lane["id"], "Hello")) for lane in lanes["lanes"])
    assert left["text"] == "Hello."
    assert left["stats"]["tok_s"] == 30.0  # Ollama's own counters
    assert right["state"] == "done"
    assert right["text"].startswith("#")
    assert right["stats"]["output_tokens"] == 8
    assert right["stats"]["prompt_tokens"]
    assert right["stats"]["timed_here"]
    assert right["stats"]["ttft_ms"] > 0


def test_the_key_is_sent_to_the_gateway_and_never_to_the_page(both: WebUI, truth: TruthEngine) -> None:
    chat = both.new_chat("gateway:truth", parameters={"num_predict": 4})
    both.whole(both.ask(chat, "Hello"))
    assert "sk-mine" in str(truth.records()[-1]["head"])
    for path in ("/", "/api/models", "/api/chats", "/api/export"):
        assert "sk-mine" not in both.client.get(path).text


def test_stopping_closes_the_connection_to_the_gateway(both: WebUI, truth: TruthEngine) -> None:
    chat = both.new_chat("gateway:truth", parameters={"num_predict": 5000})
    answer = both.ask(chat, "Hello")
    events = both.listen(answer)
    next(events)
    both.api("POST", f"/api/answers/{answer}/stop")
    assert list(events)[-1]["message"]["state"] == "stopped"
    assert sum(chunks for _, chunks in truth.records()[-1]["sends"]) < 5000


def test_an_engine_that_is_not_set_is_refused(ui: WebUI) -> None:
    message = ui.whole(ui.ask(ui.new_chat("gateway:x"), "Hello"))
    assert message["state"] == "failed"
    assert "There is no engine gateway" in message["note"]


CHUNK = b'data: {"error": null, "choices": [{"delta": {"content": "Hi"}}]}\n\n'
STREAMS = {
    "an error that is only a text": (CHUNK + b'data: {"error": "the model is overloaded"}\n\n', "failed", "overloaded"),
    "an error as OpenAI sends it": (CHUNK + b'data: {"error": {"message": "no seat"}}\n\n', "failed", "no seat"),
    "empty fields": (CHUNK + b'data: {"choices": null}\n\ndata: [DONE]\n\n', "done", ""),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_dialects_of_gateways_are_understood(scripted: Scripted, tmp_path: Path, name: str) -> None:
    stream, state, note = STREAMS[name]

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))  # unread, it would have the connection reset
            self.send_response(200)
            self.end_headers()
            self.wfile.write(stream)

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with running(tmp_path, scripted.url, gateway=f"http://127.0.0.1:{server.server_port}") as ui:
            message = ui.whole(ui.ask(ui.new_chat("gateway:x"), "Hello"))
        server.shutdown()
    assert (message["state"], message["text"]) == (state, "Hi")
    assert note in message["note"]
    assert "AttributeError" not in message["note"]


@pytest.mark.programs
def test_ollama_is_compared_with_the_gateway_in_front_of_it(ollama: Engine, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("gateway", "ui")]
    for folder in folders:
        folder.mkdir()
    model, parameters = ollama.served_name, {"num_predict": 8, "temperature": 0, "seed": 1}
    with (
        gateway.running(folders[0], {"ollama": ollama.url}) as front,
        running(folders[1], ollama.url, gateway=front.url) as ui,
    ):
        targets = [f"ollama:{model}", f"gateway:{model}"]
        assert set(targets) <= set(ui.api("GET", "/api/models")["targets"])
        lanes = ui.api("POST", "/api/chats", {"targets": targets, "parameters": parameters})["lanes"]
        direct, through = (ui.whole(answer) for answer in [ui.ask(lane["id"], "What is a cat?") for lane in lanes])
    assert direct["text"] == through["text"]
    for figure in ("prompt_tokens", "output_tokens"):
        assert direct["stats"][figure] == through["stats"][figure]

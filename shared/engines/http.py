"""Plain requests to an engine: is it well, one whole answer, the ids of its greedy tokens, its counters.

Nothing here is measured; measured requests are `shared.load.client`'s.
"""

import functools
import http.client
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from shared.engines.spec import EngineSpec
from shared.errors import LabError
from shared.models.choice import ModelChoice
from shared.processes import descendants

Message = Mapping[str, str]


class Process(Protocol):
    @property
    def pid(self) -> int: ...


class Endpoint(Protocol):
    """What a request needs of a running engine; `shared.launch.running.Engine` has it."""

    @property
    def spec(self) -> EngineSpec: ...
    @property
    def model(self) -> ModelChoice: ...
    @property
    def process(self) -> Process: ...
    @property
    def port(self) -> int: ...
    @property
    def url(self) -> str: ...
    @property
    def served_name(self) -> str: ...


def get(port: int, path: str) -> tuple[int, str] | None:
    """Status and text of a GET on 127.0.0.1, None if nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def post_json(url: str, body: Mapping[str, object], timeout_s: float = 120) -> dict[str, Any]:
    """POST to an engine and return its JSON. Raises LabError with the engine's own words if it refuses."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        connection.request("POST", parts.path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
    except (OSError, http.client.HTTPException) as e:
        raise LabError(f"{url} did not answer: {e}.") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise LabError(f"{url} answered {answer.status}: {data[:300].decode(errors='replace')}")
    parsed: dict[str, Any] = json.loads(data)
    return parsed


def counters(engine: Endpoint) -> dict[str, float]:
    """The engine's own counters, under the names of `EngineSpec.counters`; those that it has.

    A metric with several labels is summed over them. Empty if its metrics can't be had.
    """
    spec, port = engine.spec, engine.port
    if spec.metrics_of:
        found = [p for pid in descendants(engine.process.pid) if (p := port_of(pid, spec.metrics_of))]
        if not found:
            return {}
        port = found[0]
    answer = get(port, spec.metrics)
    if answer is None or answer[0] != 200:
        return {}
    seen: dict[str, float] = {}
    for name, value in re.findall(r"(?m)^([\w:]+)(?:\{[^\n]*\})? ([-+.\dEeNaIinf]+)$", answer[1]):
        seen[name] = seen.get(name, 0.0) + float(value)
    return {ours: seen[theirs] for ours, theirs in spec.counters.items() if theirs in seen}


def port_of(pid: int, program: str) -> int | None:
    """The port that a process of this name was told to listen on."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return None
    if Path(words[0]).name != program or "--port" not in words:
        return None
    return int(words[words.index("--port") + 1])


def greedy_tokens(engine: Endpoint, messages: Sequence[Message], tokens: int) -> tuple[list[int], list[int]]:
    """The engine's own prompt ids and the ids of its greedy answer, up to (without) the end token.

    Ids come from the engine: its text, tokenised again, may split differently. Raises LabError for an engine whose
    API returns none that the labs know of.
    """
    if engine.spec.token_ids not in GREEDY:
        raise LabError(f"{engine.spec.title} returns no token ids that the labs know of.", "compare its text")
    return GREEDY[engine.spec.token_ids](engine, messages, tokens)


def _greedy_llamacpp(engine: Endpoint, messages: Sequence[Message], tokens: int) -> tuple[list[int], list[int]]:
    prompt = post_json(engine.url + "/apply-template", {"messages": list(messages)})["prompt"]
    ids = post_json(engine.url + "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
    body = {
        "prompt": prompt,
        "n_predict": tokens,
        "temperature": 0,
        "return_tokens": True,
        "cache_prompt": False,
    }
    answer = post_json(engine.url + "/completion", body)
    return ids["tokens"], _without_end(answer["tokens"], answer["stop_type"] == "eos")


def _greedy_vllm(engine: Endpoint, messages: Sequence[Message], tokens: int) -> tuple[list[int], list[int]]:
    body = {
        "model": engine.served_name, "messages": list(messages), "max_tokens": tokens,
        "temperature": 0, "return_token_ids": True,
    }  # fmt: skip
    answer = post_json(engine.url + "/v1/chat/completions", body)
    choice = answer["choices"][0]
    return answer["prompt_token_ids"], _without_end(choice["token_ids"], choice["finish_reason"] == "stop")


def _greedy_sglang(engine: Endpoint, messages: Sequence[Message], tokens: int) -> tuple[list[int], list[int]]:
    body = {
        "model": engine.served_name, "messages": list(messages), "max_tokens": tokens,
        "temperature": 0, "return_token_ids": True, "return_prompt_token_ids": True,
    }  # fmt: skip
    [choice] = post_json(engine.url + "/v1/chat/completions", body)["choices"]
    return choice["prompt_token_ids"], _without_end(choice["response_token_ids"], choice["finish_reason"] == "stop")


def _greedy_ollama(engine: Endpoint, messages: Sequence[Message], tokens: int) -> tuple[list[int], list[int]]:
    """Ollama returns no ids of an answer, but each token's bytes, which name it in a byte-level vocabulary.

    Of the prompt it returns ids in `context`, which is the prompt with an answer behind it.
    """
    options = {"temperature": 0, "num_predict": tokens}
    body = {"model": engine.served_name, "messages": list(messages), "stream": False, "logprobs": True}
    answer = post_json(engine.url + "/api/chat", {**body, "options": options})
    vocabulary = byte_vocabulary(engine.model.folder / "hf" / "tokenizer.json")
    pieces = [bytes(token["bytes"]) for token in answer["logprobs"]]
    by_role = {message["role"]: message["content"] for message in messages}
    again = {"model": engine.served_name, "prompt": by_role["user"], "stream": False}
    if "system" in by_role:
        again["system"] = by_role["system"]
    context = post_json(engine.url + "/api/generate", {**again, "options": {**options, "num_predict": 1}})["context"]
    return context[: answer["prompt_eval_count"]], [vocabulary[piece] for piece in pieces if piece in vocabulary]


@functools.cache
def byte_vocabulary(tokenizer: Path) -> dict[bytes, int]:
    """The ids of a byte-level BPE vocabulary by their bytes; special tokens, which stand for none, left out.

    In tokenizer.json a token is written in printable characters: a printable byte as itself, the others in
    their order as the characters from 256 on (GPT-2's bytes_to_unicode).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}
    stored = json.loads(tokenizer.read_text())
    special = {token["content"] for token in stored["added_tokens"]}
    return {
        bytes(byte_of[character] for character in token): number
        for token, number in stored["model"]["vocab"].items()
        if token not in special
    }


GREEDY = {"llamacpp": _greedy_llamacpp, "vllm": _greedy_vllm, "sglang": _greedy_sglang, "ollama": _greedy_ollama}


def _without_end(ids: list[int], ended: bool) -> list[int]:
    return ids[:-1] if ended else ids

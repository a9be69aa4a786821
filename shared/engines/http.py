"""Plain requests to an engine: its health, one whole answer, the token ids of a greedy answer, its counters.

None of these requests is measured. `shared.load.client` sends the measured ones.
"""

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shared.engines.spec import EngineSpec
from shared.errors import LabError
from shared.models.choice import ModelChoice
from shared.processes import descendants

if TYPE_CHECKING:
    import httpx

Message = Mapping[str, str]
READ_LOG = "read the engine's log (print(engine.tail())), then launch it again"


class Process(Protocol):
    @property
    def pid(self) -> int: ...


class Endpoint(Protocol):
    """What a request needs of a running engine. `shared.launch.running.Engine` provides it."""

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


@functools.cache
def client() -> "httpx.Client":
    """The HTTP client of all plain requests.

    It ignores HTTP_PROXY and ALL_PROXY, because a proxy does not reach this machine's 127.0.0.1. It opens a connection
    for each request, because an engine may restart on the same port. It does not ask for compression, which would cost
    the engine time.
    """
    import httpx  # takes a third of a second to import

    return httpx.Client(
        trust_env=False,
        headers={"Accept-Encoding": "identity"},
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def request(method: str, url: str, timeout_s: float, body: Mapping[str, object] | None = None) -> "httpx.Response":
    """Send a request and return the response, whatever its status. Raises OSError if no complete response arrives.

    `timeout_s` limits the connection, and each single wait for bytes.
    """
    import httpx

    try:
        return client().request(method, url, json=body, timeout=timeout_s)
    except httpx.HTTPError as e:
        raise OSError(str(e) or type(e).__name__) from None


def get(port: int, path: str) -> tuple[int, str] | None:
    """Status and text of a GET on 127.0.0.1, or None without a response."""
    try:
        answer = request("GET", f"http://127.0.0.1:{port}{path}", timeout_s=5)
    except OSError:
        return None
    return answer.status_code, answer.content.decode(errors="replace")


def post_json(url: str, body: Mapping[str, object], timeout_s: float = 120) -> dict[str, Any]:
    """POST to an engine and return its JSON. Raises LabError, with the engine's own message if it rejects the body."""
    try:
        answer = request("POST", url, timeout_s, body)
    except OSError as e:
        raise LabError(f"{url} did not answer: {e}.", READ_LOG) from None
    if answer.status_code != 200:
        fix = "correct what this message names" if answer.status_code < 500 else READ_LOG
        raise LabError(f"{url} answered {answer.status_code}: {answer.content[:300].decode(errors='replace')}", fix)
    parsed: dict[str, Any] = answer.json()
    return parsed


def counters(engine: Endpoint) -> dict[str, float]:
    """The engine's own counters, under the names of `EngineSpec.counters`. Counters that it does not have are left out.

    A metric with several label sets is summed over them. The accepted drafts of each position are `accepted_at_0`,
    `accepted_at_1` and so on: `shared.engines.draft_counts` reads them. Empty if the engine's metrics are not available
    or not readable.
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
    try:
        seen = sums(answer[1], spec.counters.values())
        drafts = sums(answer[1], [spec.accepted_at], by="position") if spec.accepted_at else {}
    except ValueError:
        return {}
    own = {ours: seen[theirs] for ours, theirs in spec.counters.items() if theirs in seen}
    return own | {f"accepted_at_{position}": accepted for position, accepted in drafts.items()}


def sums(text: str, names: Collection[str], by: str = "") -> dict[str, float]:
    """The metrics of these names in a text of Prometheus' format, each summed over its label sets.

    With `by`, the name of a label, they are summed for each of its values, and these are the keys.

    Only their sample lines are parsed, for two reasons. A page of vLLM has 56 kB, and parsing it all in a thread would
    delay the measuring client. With its "# TYPE" line, a counter whose name does not end in "_total" (llama.cpp's
    `n_tokens_max`) would get that ending.
    """
    from prometheus_client.parser import text_string_to_metric_families  # imports a web server

    wanted = tuple(names)
    lines = "\n".join(line for line in text.splitlines() if line.startswith(wanted))
    seen: dict[str, float] = {}
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            if sample.name in names:
                key = sample.labels[by] if by else sample.name
                seen[key] = seen.get(key, 0.0) + sample.value
    return seen


def port_of(pid: int, program: str) -> int | None:
    """The value of `--port` in the command line of process `pid`, or None if it does not run `program`."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return None
    if Path(words[0]).name != program or "--port" not in words:
        return None
    return int(words[words.index("--port") + 1])


def greedy_tokens(engine: Endpoint, messages: Sequence[Message], tokens: int) -> tuple[list[int], list[int]]:
    """The engine's own prompt ids, and the ids of its greedy answer without the end token.

    The ids come from the engine, because tokenising its text again may split it differently. Raises LabError for an
    engine without a known way to return them.
    """
    if engine.spec.token_ids not in GREEDY:
        raise LabError(
            f"The labs have no way to get token ids from {engine.spec.title}.", "compare the text of its answers"
        )
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
    """Ids of an answer are found by the bytes of its tokens, because Ollama returns bytes and no ids.

    Bytes identify a token in a byte-level vocabulary. The prompt's ids are the beginning of `context`, in which Ollama
    returns the ids of a prompt and its answer.
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
    """The ids of a byte-level BPE vocabulary by their bytes. Special tokens stand for no bytes and are left out.

    tokenizer.json writes a token in printable characters. A printable byte is written as itself. The other bytes, in
    their order, are written as the characters from 256 on (GPT-2's bytes_to_unicode).
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

"""Plain requests to an engine: is it well, one whole answer, the ids of its greedy tokens.

Nothing here is measured; measured requests are `shared.client`'s.
"""

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shared.errors import LabError

if TYPE_CHECKING:
    from shared.launch import Engine


def get_status(port: int, path: str) -> int | None:
    """HTTP status of a GET on 127.0.0.1, None if nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
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


def greedy_tokens(engine: "Engine", messages: Sequence[Mapping[str, str]], tokens: int) -> tuple[list[int], list[int]]:
    """The engine's own prompt ids and the ids of its greedy answer, up to (without) the end token.

    Ids come from the engine: its text, tokenised again, may split differently.
    """
    if engine.spec.token_ids == "llamacpp":
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
    body = {
        "model": engine.model.name, "messages": list(messages), "max_tokens": tokens,
        "temperature": 0, "return_token_ids": True,
    }  # fmt: skip
    answer = post_json(engine.url + "/v1/chat/completions", body)
    choice = answer["choices"][0]
    return answer["prompt_token_ids"], _without_end(choice["token_ids"], choice["finish_reason"] == "stop")


def _without_end(ids: list[int], ended: bool) -> list[int]:
    return ids[:-1] if ended else ids

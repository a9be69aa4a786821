"""Experiments on Ollama's own API, one function for each measuring cell of lab 3.3.6.

    lab.measure("ollama/prefill", lambda: ollama_api.same_prompt_twice(ollama), engine=ollama)

Each takes a running Ollama and returns (values, raw). The `read_…` functions compute the values from the raw data, so
that the milestone can compute them again. Durations in Ollama's answers are in nanoseconds.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from shared.engines.http import counters, post_json, request
from shared.errors import LabError
from shared.launch.running import Engine
from shared.load import prompts

Values = dict[str, Any]
Answer = dict[str, Any]  # Ollama's last JSON object

NS_PER_MS, NS_PER_S = 1e6, 1e9
PROMPT_TOKENS = 600
EXPIRES_S = 2  # the keep_alive of the model that is left alone
PATIENCE_S = 60  # for a model to be unloaded
QUESTIONS = ("Name the capital of France.", "List three fruits.", "Write a haiku about a river.")
# Templates in Ollama's own language (Go's). The model was trained on ChatML, and on none of these.
WRONG_TEMPLATES = {
    "of another model": "### Instruction:\n{{ .Prompt }}\n\n### Response:\n",
    "the bare question": "{{ .Prompt }}",
}
CITIES = ("Paris", "Rome", "Cairo", "Oslo")
FIELDS: Mapping[str, tuple[str, type]] = {
    "city": ("string", str), "country": ("string", str), "population": ("integer", int),
}  # fmt: skip
SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {name: {"type": json_type} for name, (json_type, _) in FIELDS.items()},
    "required": list(FIELDS),
}


def chat(engine: Engine, messages: Sequence[Mapping[str, str]], *, model: str = "", **options: object) -> Answer:
    """One whole answer of /api/chat, greedy. `options` are Ollama's; `keep_alive` and `format` belong to the request.

    Raises LabError if Ollama refuses the request.
    """
    own = {name: options.pop(name, None) for name in ("keep_alive", "format")}
    own = {name: value for name, value in own.items() if value is not None}
    body = {"model": model or engine.served_name, "messages": list(messages), "stream": False, **own}
    return post_json(f"{engine.url}/api/chat", {**body, "options": {"temperature": 0, **options}})


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def loaded(engine: Engine) -> list[dict[str, Any]]:
    """The models that are in memory now, as /api/ps lists them. Raises OSError if Ollama does not answer."""
    found: list[dict[str, Any]] = request("GET", f"{engine.url}/api/ps", timeout_s=10).json()["models"] or []
    return found


def unload(engine: Engine) -> float:
    """Take the model out of memory. Returns the seconds until /api/ps no longer lists it."""
    began = time.monotonic()
    post_json(f"{engine.url}/api/generate", {"model": engine.served_name, "keep_alive": 0})
    return until_unloaded(engine, began)


def until_unloaded(engine: Engine, began: float) -> float:
    """Wait until no model is loaded. Returns the seconds since `began`. Raises LabError after PATIENCE_S."""
    while loaded(engine):
        if time.monotonic() - began > PATIENCE_S:
            raise LabError(
                f"Ollama still lists the model {PATIENCE_S} s after its time was over.", "run the cell again"
            )
        time.sleep(0.05)
    return time.monotonic() - began


def same_prompt_twice(engine: Engine) -> tuple[Values, list[Values]]:
    """The same long prompt twice: what Ollama's last object counts, and what its llama-server computed."""
    messages, seen = next(iter(prompts.long(engine.model, PROMPT_TOKENS))), []
    for _ in range(2):
        before = counters(engine)
        last = chat(engine, messages, num_predict=8)
        grown = {name: value - before.get(name, 0) for name, value in counters(engine).items()}
        seen.append({"last": last, "computed": grown.get("prompt_tokens"), "cached": grown.get("cached_tokens")})
    return read_prefill(seen), seen


def read_prefill(seen: Sequence[Values]) -> Values:
    """Both prefill rates of each request, in tok/s: by all prompt tokens, and by those that were computed.

    A rate is None where the engine's counters could not be read.
    """
    found: Values = {}
    for name, one in zip(("first", "again"), seen, strict=True):
        count, seconds = one["last"]["prompt_eval_count"], one["last"]["prompt_eval_duration"] / NS_PER_S
        found[name] = {
            "prompt_tokens": count, "prefill_ms": seconds * 1e3, "cached_tokens": one["cached"],
            "by_all_tok_s": count / seconds,
            "by_computed_tok_s": None if one["computed"] is None else one["computed"] / seconds,
        }  # fmt: skip
    return found


def keep_alive(engine: Engine) -> tuple[Values, list[Values]]:
    """What /api/ps lists after requests with several values of keep_alive, and what the next request waits for."""
    seen: list[Values] = []

    def note(what: str, load_ns: int | None = None, after_s: float | None = None) -> None:
        here = [{name: one.get(name) for name in ("name", "size", "expires_at")} for one in loaded(engine)]
        seen.append({"what": what, "loaded": here, "resident_gib": engine.resident_gib(), "load_ns": load_ns,
                     "after_s": after_s})  # fmt: skip

    def ask(keep: object) -> int:
        load_ns: int = chat(engine, question("Say hello."), keep_alive=keep, num_predict=4)["load_duration"]
        return load_ns

    ask(-1)
    note("keep_alive -1", ask(-1))
    for_ever = max(one["expires_at"] for one in loaded(engine))  # a date in the far future
    load_ns, ended_s = ask(f"{EXPIRES_S}s"), time.monotonic()
    while any(one["expires_at"] >= for_ever for one in loaded(engine)) and time.monotonic() - ended_s < EXPIRES_S / 2:
        time.sleep(0.01)  # Ollama lists the new time a moment later
    note(f"keep_alive {EXPIRES_S} s", load_ns)
    gone_s = until_unloaded(engine, ended_s)
    note("the time is over", after_s=gone_s)
    note("the next request", ask(-1))
    note("keep_alive 0", after_s=unload(engine))
    ask(-1)
    return read_keep_alive(seen), seen


def read_keep_alive(seen: Sequence[Values]) -> Values:
    """Loading times in ms, warm and cold; whether the model left memory by time and by keep_alive 0."""
    at = {one["what"]: one for one in seen}
    gone = [at["the time is over"], at["keep_alive 0"]]
    return {
        "warm_load_ms": at["keep_alive -1"]["load_ns"] / NS_PER_MS,
        "cold_load_ms": at["the next request"]["load_ns"] / NS_PER_MS,
        "expired_after_s": at["the time is over"]["after_s"],
        "unloaded": all(not one["loaded"] for one in gone),
    }


def contexts(engine: Engine, sizes: Sequence[int]) -> tuple[Values, list[Values]]:
    """The model loaded with several num_ctx: what /api/ps lists, and how long the change took."""
    seen = []
    for tokens in sizes:
        last = chat(engine, question("Say hello."), num_ctx=tokens, num_predict=4)
        [one] = loaded(engine)
        seen.append({"num_ctx": tokens, "size_bytes": one["size"], "context_length": one.get("context_length"),
                     "resident_gib": engine.resident_gib(), "load_ns": last["load_duration"]})  # fmt: skip
    unload(engine)  # the next request loads it with the default context again
    return read_contexts(seen), seen


def read_contexts(seen: Sequence[Values]) -> Values:
    """Bytes that each further token of context adds, from the smallest and the largest of the sizes."""
    low, high = min(seen, key=lambda one: one["num_ctx"]), max(seen, key=lambda one: one["num_ctx"])
    tokens = high["num_ctx"] - low["num_ctx"]
    return {"bytes_per_token": (high["size_bytes"] - low["size_bytes"]) / tokens}


def memory(engine: Engine) -> Values:
    """What /api/ps lists of the loaded model, and the memory of all of Ollama's processes."""
    chat(engine, question("Say hello."), num_predict=1)
    [one] = loaded(engine)
    return {
        "size_bytes": one["size"],
        "context_length": one.get("context_length"),
        "resident_gib": engine.resident_gib(),
    }


def templates(engine: Engine) -> tuple[Values, dict[str, list[Values]]]:
    """The same questions to the same weights, with the model's own template and with wrong ones."""
    seen = {"its own": answers(engine, engine.served_name)}
    for number, (name, template) in enumerate(WRONG_TEMPLATES.items()):
        model = f"labs-template-{number}"
        made = {"model": model, "from": engine.served_name, "template": template, "stream": False}
        post_json(f"{engine.url}/api/create", made)
        seen[name] = answers(engine, model)
        request("DELETE", f"{engine.url}/api/delete", timeout_s=30, body={"model": model})
    return read_templates(seen), seen


def answers(engine: Engine, model: str) -> list[Values]:
    """The greedy answers of this model to QUESTIONS, at most 40 tokens each."""
    found = []
    for text in QUESTIONS:
        last = chat(engine, question(text), model=model, num_predict=40)
        found.append({"question": text, "text": last["message"]["content"], "reason": last["done_reason"],
                      "prompt_tokens": last["prompt_eval_count"], "tokens": last["eval_count"]})  # fmt: skip
    return found


def read_templates(seen: Mapping[str, Sequence[Values]]) -> Values:
    """For each template, how many answers ended by themselves, and how many are the same as with the model's own."""
    own = [one["text"] for one in seen["its own"]]
    return {
        name: {
            "ended": sum(one["reason"] == "stop" for one in found),
            "same": sum(one["text"] == right for one, right in zip(found, own, strict=True)),
        }
        for name, found in seen.items()
    }


def structured(engine: Engine) -> tuple[Values, dict[str, list[str]]]:
    """The same requests with and without a JSON schema."""
    seen: dict[str, list[str]] = {"with": [], "without": []}
    for city in CITIES:
        asked = question(f"Describe {city}. Answer in JSON with the fields city, country and population.")
        for name, form in (("with", SCHEMA), ("without", None)):
            seen[name].append(chat(engine, asked, format=form, num_predict=100)["message"]["content"])
    return read_structured(seen), seen


def read_structured(seen: Mapping[str, Sequence[str]]) -> Values:
    """How many of the answers are what SCHEMA describes."""
    valid = {f"valid_{name}": sum(map(fits, texts)) for name, texts in seen.items()}
    return {"asked": len(seen["with"]), **valid}


def fits(text: str) -> bool:
    """Whether a text is a JSON object with the fields of SCHEMA, each of its type."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and all(type(found.get(name)) is kind for name, (_, kind) in FIELDS.items())


def modelfile(text: str, name: str) -> str:
    """A Modelfile as `ollama show` writes it, without its comments, and with this name for its weights' file."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(f"FROM {name}" if line.startswith("FROM ") else line for line in lines).strip()

"""Let SmolLM2 answer the prompts of prompts.py, and append each answer's token ids to a file.

python -m environment.eagle3_head.write_text --tokens 1000000

A head learns to guess what its own model writes, so no other text will do. llama.cpp writes it, with many users at
once. The command may be ended at any time: it continues with the prompts that have no answer yet. On a machine that
does other work as well, run one process a core, because an engine of two threads waits for the slower of them:

taskset -c 0 chrt -i 0 nice -n 19 python -m environment.eagle3_head.write_text --part 0/2 &
taskset -c 1 chrt -i 0 nice -n 19 python -m environment.eagle3_head.write_text --part 1/2 &
"""

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import numpy as np

from environment.eagle3_head.prompts import Prompt, prompts
from shared import hardware, models, paths
from shared.course.speculation.eagle3 import training_text
from shared.course.speculation.eagle3.training_text import TrainingText
from shared.launch import launch
from shared.launch.running import Engine
from shared.load.prompts import chat, tokenizer

TEXT = training_text.FILE
MOST_TOKENS = 256  # of one answer
ROOM = 768  # tokens of a prompt and its answer
REPORT_S = 20


def packed() -> TrainingText | None:
    """The text of earlier runs, which git holds; None before the first."""
    return training_text.load(TEXT) if TEXT.exists() else None


def folder() -> Path:
    """Where answers, target states and checkpoints are kept while a head is made."""
    return paths.cache() / "eagle3"


def read(where: Path) -> list[dict[str, Any]]:
    """All answers so far, by the number of their prompt. A line cut short by a killed process is left out."""
    found = {}
    for file in where.glob("answers-*.jsonl"):
        for line in file.read_text().splitlines():
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            found[answer["number"]] = answer
    return [found[number] for number in sorted(found)]


def written_earlier(where: Path) -> tuple[set[int], int]:
    """The numbers of the prompts that are answered, in text.npz or in this folder, and the tokens of all answers."""
    text = packed()
    lengths = {answer["number"]: len(answer["answer"]) for answer in read(where)}
    if text is not None:
        each = np.diff(text.starts) - text.prompt_tokens
        lengths |= dict(zip(text.numbers.tolist(), each.tolist(), strict=True))
    return set(lengths), sum(lengths.values())


async def answer(session: aiohttp.ClientSession, engine: Engine, ids: list[int], temperature: float) -> list[int]:
    """The token ids of one answer, its end token included. Nothing but the temperature shapes the distribution."""
    if engine.spec.name == "vllm":
        url, body = "/v1/completions", {
            "model": engine.served_name, "prompt": ids, "max_tokens": MOST_TOKENS, "temperature": temperature,
            "return_token_ids": True,
        }  # fmt: skip
    else:
        samplers = {"samplers": ["temperature"]} if temperature else {"samplers": ["top_k"], "top_k": 1}
        url, body = "/completion", {
            "prompt": ids, "n_predict": MOST_TOKENS, "temperature": temperature, "cache_prompt": False,
            "return_tokens": True, **samplers,
        }  # fmt: skip
    async with session.post(engine.url + url, json=body) as response:
        response.raise_for_status()
        reply = await response.json()
    tokens: list[int] = reply["choices"][0]["token_ids"] if engine.spec.name == "vllm" else reply["tokens"]
    return tokens


def line(number: int, prompt: Prompt, ids: list[int], tokens: list[int]) -> str:
    """One answer as a line of the file that `read` reads."""
    stored = {
        "number": number, "group": prompt.group, "held_out": prompt.held_out,
        "temperature": prompt.temperature, "prompt": ids, "answer": tokens,
    }  # fmt: skip
    return json.dumps(stored) + "\n"


async def write(engine: Engine, todo: Iterator[tuple[int, Prompt]], users: int, tokens: int, out: TextIO) -> None:
    """Ask with so many users until the answers have so many tokens."""
    own, began, written, reported = tokenizer(engine.model.folder / "hf"), time.monotonic(), 0, 0.0
    # llama-server closes a connection after each answer.
    connector, timeout = aiohttp.TCPConnector(limit=0, force_close=True), aiohttp.ClientTimeout(None)

    async def user(session: aiohttp.ClientSession) -> None:
        nonlocal written, reported
        for number, prompt in todo:
            if written >= tokens:
                return
            text = own.apply_chat_template(
                chat(engine.model, prompt.question), add_generation_prompt=True, tokenize=False
            )
            ids = own.encode(text, add_special_tokens=False)
            while True:
                try:
                    reply = await answer(session, engine, ids, prompt.temperature)
                    break
                except aiohttp.ClientConnectionError:  # a busy machine: the server gave up waiting for the request
                    if not engine.alive:
                        raise
                    await asyncio.sleep(1)
            out.write(line(number, prompt, ids, reply))
            out.flush()
            written += len(reply)
            if (passed := time.monotonic() - began) - reported > REPORT_S:
                reported = passed
                print(f"{written} tokens in {passed:.0f} s, {written / passed:.0f} a second", flush=True)

    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(user(session) for _ in range(users)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Let the small model write the text that the head learns from.")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of all answers, those written earlier included")
    parser.add_argument("--engine", choices=("llamacpp", "vllm"), default="llamacpp")
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--part", default="0/1", help="which of so many processes this is, as in 0/2")
    asked = parser.parse_args()
    part, parts = map(int, asked.part.split("/"))
    where = folder()
    where.mkdir(parents=True, exist_ok=True)
    done, have = written_earlier(where)
    print(f"{len(done)} answers with {have} tokens were written earlier", flush=True)
    if have >= asked.tokens:
        return
    mine = itertools.islice(enumerate(prompts()), part, None, parts)
    todo = ((number, prompt) for number, prompt in mine if number not in done)
    model = models.choose(hardware.detect())
    flags: dict[str, int] = {"-np": asked.users, "-c": asked.users * ROOM}
    if asked.engine == "vllm":
        flags = {"--max-num-seqs": asked.users, "--max-model-len": ROOM}
    cores = 1 if parts > 1 else None
    with (
        launch(asked.engine, model, flags, cores=cores, quiet=True) as engine,
        (where / f"answers-{part}-{parts}.jsonl").open("a") as out,
    ):
        asyncio.run(write(engine, todo, asked.users, (asked.tokens - have) // parts, out))


if __name__ == "__main__":
    main()

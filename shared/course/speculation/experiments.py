"""What lab 3.3.4 measures on running engines, with and without drafts.

    for draft in experiments.drafts_of("llamacpp", model, sizes):
        with launch("llamacpp", model, experiments.FLAGS["llamacpp"], draft=draft) as engine:
            experiments.check_text(lab, engine, reference)
            experiments.speed(lab, engine, number, sizes)

Each round asks plain decoding and every draft the same questions, in turn, so that a change of the machine's speed
meets all of them. The questions are held out from the head's training, and asked exactly as in its training: without
the nonce of other labs, because a head that has never seen one accepts less. So prefix caches are off (FLAGS).

An answer has `Sizes.tokens` tokens, exactly. Only questions to which the model itself wrote at least so many tokens are
asked. With the end-of-text token suppressed, a shorter answer would run into repetitions, and those are easy to draft.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from shared.course.labs import OpenLab, Values
from shared.course.speculation.eagle3 import training_text
from shared.course.speculation.eagle3.training_text import GROUPS as GROUPS
from shared.engines import ENGINES, Draft
from shared.engines.http import Endpoint, post_json
from shared.engines.spec import DRAFTS
from shared.errors import LabError
from shared.hardware.machine import Machine, detect
from shared.launch.running import Engine
from shared.load import prompts
from shared.load.loads import Closed, Load
from shared.load.prompts import PromptSet, chat
from shared.metrics.correctness import Reference, check_greedy, gap_fault
from shared.metrics.summary import Summary
from shared.models import choice
from shared.models.choice import ModelChoice

HELD_OUT = GROUPS[1]  # the group of all questions where nothing else is said
PLAIN = "plain"
SLOTS = 32
# Prefix caches are off: a question that is asked again must not be cheaper.
FLAGS: dict[str, dict[str, Any]] = {
    "llamacpp": {"-np": SLOTS, "-c": SLOTS * 512},
    "vllm": {
        "--max-num-seqs": SLOTS, "--max-model-len": 1024, "--enforce-eager": True, "--no-enable-prefix-caching": True,
    },
    "sglang": {"--max-total-tokens": 16384, "--max-running-requests": SLOTS, "--disable-radix-cache": True},
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int  # of each load of one user
    few_rounds: int  # of what takes long: loads of many users, and starts of vLLM
    further_rounds: int  # of one user with other questions, temperatures, or synthetic acceptance
    answers: int  # of one user in a round
    tokens: int  # of each answer
    lengths: tuple[int, ...]  # of drafts, k, on llama.cpp
    users: tuple[int, ...]  # at once
    plain_users: tuple[int, ...]  # at once, without drafts: the passes that the cost model knows
    synthetic: tuple[int, ...]  # lengths of drafts of which none is accepted
    samples: int  # short answers for the distribution of the first tokens
    warm_up: bool


SIZES = {
    "full": Sizes(4, 2, 4, 4, 64, (1, 2, 3, 8), (1, 4, 16), (1, 2, 4, 8, 16, 32), (1, 2, 4, 8), 200, True),
    "quick": Sizes(1, 1, 1, 1, 64, (1, 2, 4), (1, 4, 16), (1, 4, 16), (1, 4), 100, False),
}


def sizes(machine: Machine) -> Sizes:
    return SIZES[machine.size]


def draft(engine: str, kind: str, tokens: int, model: ModelChoice, synthetic_length: float | None = None) -> Draft:
    """A draft of this kind with `tokens` drafts a step, in the file that this engine loads on this machine.

    In a container the engine takes the draft that the catalogue names for the model.
    """
    from shared.course.speculation.eagle3 import head_gguf  # imports torch

    path = None
    if detect().runner == "native" and kind != "ngram":
        if kind == "model":
            path = model.weights("Q4_0")
        else:
            path = head_gguf.path(model) if ENGINES[engine].reads == "gguf" else head_gguf.HEAD
    return Draft(kind, tokens, path, synthetic_length=synthetic_length)


def drafts_of(engine: str, model: ModelChoice, sizes: Sizes) -> list[Draft | None]:
    """Plain decoding (None), and all drafts that the lab measures on this engine and machine.

    At the quick size SGLang is started only once, with its draft: its text and its acceptance are what the lab wants.
    """
    full = sizes == SIZES["full"]
    asked = {
        "llamacpp": [*(("eagle3", k) for k in sizes.lengths), ("ngram", 8), ("model", 3)],
        "vllm": [("eagle3", 3), *([("ngram", 4)] if full else [])],
        "sglang": [("eagle3", 3)],
    }[engine]
    cannot = {kind: ENGINES[engine].why_not(detect().runner, name) for kind, name in DRAFTS.items()}
    with_draft: list[Draft | None] = [draft(engine, kind, k, model) for kind, k in asked if not cannot[kind]]
    return with_draft if engine == "sglang" and not full else [None, *with_draft]


def name_of(draft: Draft | None) -> str:
    """ "plain", "eagle3-2": as in keys and tables."""
    return PLAIN if draft is None else f"{draft.kind}-{draft.tokens}"


@dataclass(frozen=True)
class Questions(PromptSet):
    """Held-out questions of one group, in their order, the first at place `first`. Each is asked as it stands."""

    first: int = 0

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        for number in range(self.first, self.first + 10**9):
            yield chat(self.model, self.questions[number % len(self.questions)])


@cache
def questions_of(group: str, tokens: int) -> tuple[str, ...]:
    """The held-out questions of a group to which the model wrote at least `tokens` tokens (greedily).

    Raises LabError if there is none.
    """
    text = training_text.load(training_text.FILE)
    rows = [row for row in text.rows(True, group) if len(text.answer(row)) >= tokens and text.temperatures[row] == 0]
    if not rows:
        raise LabError(f"No answer of the group {group!r} has {tokens} tokens.", "ask for shorter answers")
    tokenizer = prompts.tokenizer(choice.small().folder / "hf")
    chats = (tokenizer.decode(text.row(row)[: text.prompt_tokens[row]]) for row in rows)
    return tuple(one.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0] for one in chats)


def speed(
    lab: OpenLab,
    engine: Engine,
    number: int,
    sizes: Sizes,
    *,
    group: str = HELD_OUT,
    users: int = 1,
    temperature: float = 0,
) -> Summary:
    """Measure one round of one load on a running engine, whatever drafts it has.

    Each round has other questions; plain decoding and all drafts get the same ones. What the figures mean is defined
    in `speedups`. Raises LabError if the engine would verify drafts greedily although a temperature is asked for.
    """
    engine.check_temperature(temperature)
    count = max(users, sizes.answers)
    asked = Questions(group, engine.model, questions_of(group, sizes.tokens), first=(number - 1) * count)
    one = Load(engine, asked, Closed(users, count), sizes.tokens, sizes.warm_up, temperature=temperature)
    hot = f"/temperature-{temperature:g}" if temperature else ""
    where = f"{engine.spec.name}/{name_of(engine.draft)}/{group.replace(' ', '-')}/users-{users}{hot}"
    return lab.measure(f"speed/{where}/round-{number}", one)


def speed_rounds(
    lab: OpenLab,
    engine: Engine,
    start: int,
    starts: int,
    sizes: Sizes,
    users: tuple[int, ...] = (1,),
    group: str = HELD_OUT,
) -> None:
    """Measure the rounds that belong to this start (1, 2, …) of an engine that takes long to start.

    All rounds are divided among the starts. One user gets them all. Several users get the first of each start, because
    their answers are many already.
    """
    each = sizes.rounds // starts
    first = (start - 1) * each + 1
    for number in range(first, start * each + 1):
        for count in users if number == first else users[:1]:
            speed(lab, engine, number, sizes, users=count, group=group)


def check_text(lab: OpenLab, engine: Engine, reference: Reference) -> Values:
    """Greedy text of the engine with its draft against the reference, by the same limits as without a draft.

    A machine without the reference (a model on a GPU) asks questions with known answers. Raises LabError if the text
    is wrong, so that nothing is measured of an engine that writes another text.
    """
    drafted = name_of(engine.draft)
    key = f"text/{engine.spec.name}/{drafted}"
    found: Values = lab.measure(
        key, lambda: check_greedy(engine, reference), engine=engine, questions=len(reference.chats)
    )
    if fault := text_fault(found, lab.raw(key)):
        raise LabError(
            f"{engine.spec.title} ({drafted}) doesn't write the model's text: {fault}. Its speed is not measured.",
            "start it without a draft to see whether the draft is the cause; a draft must be made for this model",
        )
    return found


def text_fault(values: Values, answers: Any) -> str | None:
    """Why these greedy answers aren't the model's; None if they are."""
    if "right" in values:
        wrong = values["texts"] - values["right"]
        return f"{wrong} of {values['texts']} known answers are wrong" if wrong else None
    return gap_fault([gap for answer in answers for gap in answer["gaps"]])


def synthetic(lab: OpenLab, engine: Engine, number: int, sizes: Sizes) -> Summary:
    """Measure a round with drafts that llama.cpp accepts at random, whatever they are: this is cost without acceptance.

    With `synthetic_length=1` none is accepted, so each step makes one token: the time of a token is that of k drafts
    and one verification. The text is not the model's.
    """
    if engine.draft is None or engine.draft.synthetic_length is None:
        raise LabError("This engine has no synthetic acceptance.", "launch it with a draft of synthetic_length=1")
    asked = Questions(HELD_OUT, engine.model, questions_of(HELD_OUT, sizes.tokens))
    one = Load(engine, asked, Closed(1, 1), sizes.tokens, sizes.warm_up)
    made = f"{engine.draft.kind}-{engine.draft.tokens}/length-{engine.draft.synthetic_length:g}"
    return lab.measure(f"synthetic/{engine.spec.name}/{made}/round-{number}", one)


FIRST_QUESTION = "Tell me something about the sea."
FIRST_TEMPERATURE = 1.0


def first_tokens(lab: OpenLab, engine: Engine, sizes: Sizes) -> Values:
    """The second and third token of many short answers to one question, at temperature 1.

    The first token comes from the prompt's own pass, before any draft. Each answer has its own seed, and each draft
    other seeds: llama.cpp draws the same tokens for the same seed with and without drafts, and one sample compared with
    itself proves nothing. Values: how many different pairs there were; the raw data are the pairs.
    """
    engine.check_temperature(FIRST_TEMPERATURE)
    seeds = random.Random(name_of(engine.draft)).sample(range(2**31), sizes.samples)

    def ask() -> tuple[Values, list[list[int]]]:
        messages = chat(engine.model, FIRST_QUESTION)
        pairs = [sampled_tokens(engine, messages, 4, seed)[1:3] for seed in seeds]
        return {"answers": len(pairs), "different": len(Counter(map(tuple, pairs)))}, pairs

    found: Values = lab.measure(
        f"first-tokens/{engine.spec.name}/{name_of(engine.draft)}", ask, engine=engine, samples=sizes.samples
    )
    return found


def sampled_tokens(engine: Endpoint, messages: list[dict[str, str]], tokens: int, seed: int) -> list[int]:
    """The ids of a short answer, drawn from the model's whole distribution. Raises LabError for an engine without ids.

    All limits on which tokens may be drawn are off, so that a change of the distribution can't hide behind them.
    """
    whole = {"temperature": FIRST_TEMPERATURE, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": seed, "ignore_eos": True}
    if engine.spec.token_ids == "llamacpp":
        prompt = post_json(engine.url + "/apply-template", {"messages": messages})["prompt"]
        body = {"prompt": prompt, "n_predict": tokens, "return_tokens": True, **whole}
        return list(post_json(engine.url + "/completion", body)["tokens"])
    if engine.spec.token_ids == "vllm":
        body = {"model": engine.served_name, "messages": messages, "max_tokens": tokens, "return_token_ids": True}
        return list(post_json(engine.url + "/v1/chat/completions", body | whole)["choices"][0]["token_ids"])
    raise LabError(f"The labs can't read sampled token ids from {engine.spec.title}.", "use llama.cpp or vLLM")


POSITIONS = (1, 2, 3, 4, 5, 9, 17)


def pass_times(llama: Any, context_tokens: int = 64, repeats: int = 9) -> tuple[Values, dict[str, list[float]]]:
    """The time of one pass of the model over several new tokens of one sequence, in torch.

    llama: a shared.models.llama.Llama. Values: {"ms": {positions: median}}; the raw data are all times in ms. The
    repeats are interleaved.
    """
    import torch

    ids = torch.ones((1, max(POSITIONS)), dtype=torch.long)
    cache = llama.new_cache(1, context_tokens + max(POSITIONS))
    llama.forward(torch.ones((1, context_tokens), dtype=torch.long), cache)
    times: dict[str, list[float]] = {str(count): [] for count in POSITIONS}
    for repeat in range(repeats + 1):
        for count in POSITIONS:
            cache.lengths[:] = context_tokens
            began = time.perf_counter()
            llama.forward(ids[:, :count], cache, every=True)
            if repeat:  # the first touches its memory for the first time
                times[str(count)].append((time.perf_counter() - began) * 1e3)
    return {"ms": {count: median(found) for count, found in times.items()}, "dtype": str(llama.embedding.dtype)}, times

"""Which drafts lab 3.3.4 measures on this machine, on which engine, and how much of each.

Without a GPU every engine gets the labs' own head. In a container it gets what the catalogue names for its model. For
llama.cpp and an 8B model that is no head but a small model, which then takes the head's place in the lab: its length is
varied, the cost model is fitted to it, and the open task offers it.
"""

from dataclasses import dataclass
from typing import Any

from shared.course.labs import OpenLab
from shared.engines import ENGINES, Draft
from shared.engines.spec import DRAFTS
from shared.hardware.machine import Machine, detect
from shared.models.choice import ModelChoice
from shared.results.participants import MISSING

PLAIN = "plain"
MAIN_KINDS = ("eagle3", "model", "ngram")  # the first that an engine can load is the lab's main draft
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

    rounds: int  # of each load of one user, who has one answer in a round
    few_rounds: int  # of many users, who have an answer each; the median of two would follow one disturbed round
    further_rounds: int  # of one user with other questions, temperatures, or synthetic acceptance
    tokens: int  # of each answer
    lengths: tuple[int, ...]  # of drafts, k, on llama.cpp
    users: tuple[int, ...]  # at once
    plain_users: tuple[int, ...]  # at once, without drafts: the passes that the cost model knows
    synthetic: tuple[int, ...]  # lengths of drafts of which none is accepted
    samples: int  # short answers for the distribution of the first tokens
    questions: int  # usual ones on which the text is checked; one that copies its prompt comes on top
    warm_up: bool


# Both sizes have the lengths that later cells need: 2 for the few drafts, 3 as on vLLM and SGLang, and 8 for the open
# task. So each draft's text is checked before its speed is measured.
SIZES = {
    "full": Sizes(8, 3, 5, 64, (1, 2, 3, 8), (1, 4, 16), (1, 2, 4, 8, 16, 32), (1, 2, 4, 8), 200, 6, True),
    "quick": Sizes(1, 1, 1, 64, (2, 3, 8), (1, 4), (1, 4, 8), (1, 4), 100, 2, False),
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

    A draft that the engine can't use there is left out, and in a container one that the catalogue doesn't name.
    At the quick size SGLang is started only once, with its draft: its text and its acceptance are what the lab wants.
    """
    full = sizes == SIZES["full"]
    asked = {
        "llamacpp": [*((main_kind(model), k) for k in sizes.lengths), ("ngram", 8), ("model", 3)],
        "vllm": [("eagle3", 3), *([("ngram", 4)] if full else [])],
        "sglang": [("eagle3", 3)],
    }[engine]
    there = kinds(engine, model)
    usable = [one for one in dict.fromkeys(asked) if one[0] in there]
    with_draft: list[Draft | None] = [draft(engine, kind, k, model) for kind, k in usable]
    return with_draft if engine == "sglang" and not full else [None, *with_draft]


def kinds(engine: str, model: ModelChoice) -> set[str]:
    """The kinds of drafts that this engine can load on this machine."""
    runner = detect().runner
    there = {kind for kind, name in DRAFTS.items() if not ENGINES[engine].why_not(runner, name)}
    if runner == "container":
        there &= {"ngram", *(kind for kind, name in DRAFTS.items() if f"{engine} {name}" in model.drafts)}
    return there


def main_kind(model: ModelChoice) -> str:
    """The kind of draft whose length the lab varies on llama.cpp: the head, else a small model, else look-up."""
    there = kinds("llamacpp", model)
    return next(kind for kind in MAIN_KINDS if kind in there)


def few_drafts(drafts: list[Draft | None], model: ModelChoice) -> list[Draft | None]:
    """Those of llama.cpp's drafts that are measured with other questions, temperatures and users: three of them."""
    wanted = (PLAIN, f"{main_kind(model)}-2", "ngram-8")
    return [one for one in drafts if name_of(one) in wanted]


def rejected_drafts(lab: OpenLab, model: ModelChoice, sizes: Sizes) -> list[Draft]:
    """llama.cpp's drafts of which none is accepted, for the cost of a step.

    Empty on a machine whose only draft is look-up, which costs no pass: the ledger then holds this reason.
    """
    kind = main_kind(model)
    if kind == "ngram":
        why = f"the catalogue names no head and no draft model of {model.name} for llama.cpp, so no draft costs a pass"
        print(f"Without synthetic acceptance and the cost model: {why}.")
        lab.record("synthetic/llamacpp", {MISSING: why})
        return []
    return [draft("llamacpp", kind, k, model, 1) for k in sizes.synthetic]


def name_of(draft: Draft | None) -> str:
    """ "plain", "eagle3-2": as in keys and tables."""
    return PLAIN if draft is None else f"{draft.kind}-{draft.tokens}"

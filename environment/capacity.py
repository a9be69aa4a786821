"""`make capacity`: how many engines and machines a group of users needs, from this machine's own ledger.

    make capacity USERS=200 PROMPT=500 OUTPUT=200 TTFT=2000 TPOT=100 THINK=30
    python -m environment.capacity USERS=200      # the same; what is not given has a default

It needs loads of the engine at four numbers of users or more: of lab 3.3.2, or else of lab 3.3.1. It prints every term
of the arithmetic with its source, the error of the model on loads that it was not fitted to, and the answer.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared import models
from shared.errors import LabError, command
from shared.hardware.machine import detect
from shared.metrics.capacity import Demand
from shared.metrics.summary import Slo
from shared.report.capacity import answer, by_rate, doubts, left_out, planned, terms
from shared.results import recorded_engine

EXAMPLE = "make capacity USERS=200 PROMPT=500 OUTPUT=200 TTFT=2000 TPOT=100 THINK=30"


@dataclass(frozen=True)
class Input:
    """One input of the command: NAME=VALUE."""

    default: str
    meaning: str
    read: Callable[[str], float] | None = int  # None: a word


INPUTS = {
    "USERS": Input("30", "people who use the service at the same time of day"),
    "PROMPT": Input("500", "tokens of a prompt, with the conversation so far"),
    "OUTPUT": Input("200", "tokens of an answer"),
    "TTFT": Input("2000", "limit of the time to the first token, in ms", float),
    "TPOT": Input("100", "limit of the mean time per output token, in ms", float),
    "THINK": Input("30", "seconds from the end of an answer to the same user's next request", float),
    "SHARE": Input("90", "% of the requests that must keep both limits", float),
    "ENGINE": Input("vllm", "the engine, as in results/", None),
    "PER_MACHINE": Input("1", "engines on one machine, each with cores or a GPU of its own"),
}


def read_inputs(words: Sequence[str]) -> dict[str, str]:
    """The inputs that NAME=VALUE words give. Raises LabError for a name or a value that can't be used."""
    given = dict(word.partition("=")[::2] for word in words)
    if unknown := [name for name in given if name not in INPUTS]:
        raise LabError(f"{unknown[0]} is no input of this command.", f"use {', '.join(INPUTS)}, as in {EXAMPLE}")
    for name, text in given.items():
        reader = INPUTS[name].read
        try:
            if reader is not None:
                reader(text)
        except ValueError:
            kind = "a whole number" if reader is int else "a number"
            raise LabError(f"{name} is {text!r}, but must be {kind}: {INPUTS[name].meaning}.", EXAMPLE) from None
    return given


def demand_of(given: dict[str, str]) -> Demand:
    return Demand(
        users=int(given["USERS"]),
        prompt_tokens=int(given["PROMPT"]),
        output_tokens=int(given["OUTPUT"]),
        think_s=float(given["THINK"]),
        slo=Slo(float(given["TTFT"]), float(given["TPOT"])),
        share=float(given["SHARE"]) / 100,
    )


def usage() -> str:
    lines = [f"  {name:12} {one.meaning} (default {one.default})" for name, one in INPUTS.items()]
    return "\n".join([f"How many engines and machines a group of users needs:\n\n  {EXAMPLE}\n", *lines])


@command
def main(arguments: Sequence[str]) -> None:
    if {"-h", "--help", "help"} & set(arguments):
        print(usage())
        return
    typed = read_inputs(arguments)
    defaults = {name: one.default for name, one in INPUTS.items() if name not in typed}
    given = typed | defaults
    demand = demand_of(given)
    model = models.choose(detect(), "3.3.2")
    recorded = recorded_engine.read(given["ENGINE"], model)
    found, engine = planned(recorded, demand, int(given["PER_MACHINE"]))
    if defaults:
        print("By default:", " ".join(f"{name}={value}" for name, value in defaults.items()), "\n")
    print(terms(recorded, engine, found).markdown(), "\n")
    for test in (left_out, lambda recorded: by_rate(recorded, demand.slo, demand.share)):
        try:
            print(test(recorded).markdown(), "\n")
        except LabError as e:  # the answer needs fewer loads than its test
            print(f"The error on this machine is not known. {e}\n")
    print(answer(recorded, found))
    print(*doubts(recorded, engine, demand), sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measure the head on held-out text, and write the figures into the model card (README.md).

python -m environment.eagle3_head.evaluate

Only what lies between the two marks of the card is replaced. Run it after each new head.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from environment.eagle3_head.prompts import HELD_OUT
from environment.eagle3_head.train_head import HERE
from environment.eagle3_head.write_text import TEXT
from shared import files, models
from shared.course.speculation.eagle3 import acceptance, head_files, training_text
from shared.course.speculation.eagle3.head import Eagle3Head
from shared.course.speculation.eagle3.target_states import LiveStates, TargetStates
from shared.course.speculation.eagle3.training_text import TrainingText
from shared.hardware.processor import processor_name, torch_dtype
from shared.models.llama import Llama

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
STEPS = 5


def table(head: Eagle3Head, llama: Llama, text: TrainingText, states: TargetStates, answers: int) -> list[str]:
    """One line a group: positions, accuracy of each guess, share of drafts whose first k guesses are all right."""
    chosen = {group: text.rows(held_out=True, group=group)[:answers] for group in training_text.GROUPS}
    found = {
        group: acceptance.measure(head, llama.embedding, text, states, rows, STEPS) for group, rows in chosen.items()
    }
    found["**all four**"] = acceptance.together(list(found.values()))
    chosen["**all four**"] = [row for rows in chosen.values() for row in rows]
    ordinals = " | ".join(str(k) for k in range(1, STEPS + 1))
    lines = [
        f"| held-out text | answers | positions | coverage | {ordinals} | tokens a pass, 3 drafts |",
        "|---|" + "---|" * (STEPS + 4),
    ]
    for group, one in found.items():
        covered = acceptance.coverage(head.draft_tokens.tolist(), text, chosen[group])
        shares = " | ".join(f"{each:.2f} / {first:.2f}" for each, first in zip(one.each, one.first, strict=True))
        lines.append(
            f"| {group} | {len(chosen[group])} | {one.positions} | {covered:.1%} | {shares} "
            f"| {one.tokens_per_pass(3):.2f} |"
        )
    return lines


def facts(head: Eagle3Head, text: TrainingText) -> list[str]:
    """What the head and its text are."""
    rows, held = text.rows(held_out=False), text.rows(held_out=True)
    run = json.loads((HERE / "training.json").read_text())
    parameters = sum(parameter.numel() for parameter in head.parameters())
    size, stored = (HERE / head_files.WEIGHTS).stat().st_size, TEXT.stat().st_size
    return [
        f"- Head: {parameters:,} parameters, {size / 1e6:.1f} MB in BF16, {head.shape.draft_vocabulary:,} draft tokens "
        f"of {head.shape.vocabulary:,}, MLP of {head.shape.intermediate}.",
        f"- Trained on {run['answers']:,} answers with {run['tokens']:,} tokens: {run['updates']:,} updates of "
        f"{run['rows_a_batch']} answers, {run['seconds']:,} s ({run['device']}).",
        f"- The text file holds {len(rows):,} answers with {text.answer_tokens(rows):,} tokens for training, and "
        f"{len(held):,} with {text.answer_tokens(held):,} tokens held out; {stored / 1e6:.1f} MB.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the head on held-out text, and write it into the card.")
    parser.add_argument("--answers", type=int, default=HELD_OUT, help="of each group")
    asked = parser.parse_args()
    model = models.small()
    llama = Llama.load(model.weights("hf"), torch.bfloat16)
    text = training_text.load(TEXT)
    head = head_files.load(HERE, head_files.read_config(model.weights("hf")))
    measured = [
        *facts(head, text),
        f"- Measured on {time.strftime('%F')} with {processor_name()}, matrix products in {torch_dtype()}.",
        "",
        *table(head, llama, text, LiveStates(llama, text), asked.answers),
    ]
    card: Path = HERE / "README.md"
    before, _, rest = card.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    files.write(card, "\n".join([before + BEGIN, *measured, END + after]).encode())
    print(json.dumps(measured, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()

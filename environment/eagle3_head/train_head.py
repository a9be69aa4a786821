"""Make the head from the written text: pack the text, compute the model's states, train, export.

python -m environment.eagle3_head.train_head --updates 1500
python -m environment.eagle3_head.train_head --gpu --rows 32 --updates 6000     # minutes instead of hours

Each part resumes: the text grows, the states of new rows are added, training continues from its checkpoint. With
`--again` training begins anew. The head in this folder is only replaced with `--export`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from environment.eagle3_head import write_text
from shared import models
from shared.course.speculation.eagle3 import acceptance, head_files, training_text
from shared.course.speculation.eagle3.head import Eagle3Head
from shared.course.speculation.eagle3.target_states import LiveStates, StoredStates, TargetStates
from shared.course.speculation.eagle3.training import Settings, Training, feature_spread
from shared.course.speculation.eagle3.training_text import TrainingText
from shared.hardware.processor import processor_name
from shared.models.llama import Llama

HERE = Path(__file__).resolve().parent
DRAFT_VOCABULARY, INTERMEDIATE = 6144, 768  # 14.6 MB in BF16
JUDGED = 15  # held-out rows a group on which the head is judged at the end; `evaluate` takes all


def pack() -> TrainingText:
    """Add new answers to text.npz, and return the text."""
    earlier = write_text.packed()
    text = training_text.pack(write_text.read(write_text.folder()), earlier)
    if text is not earlier:
        text.save(write_text.TEXT)
    return text


def frequent_tokens(text: TrainingText, size: int) -> list[int]:
    """The draft vocabulary: the tokens that the answers used for training have most often, filled up by number."""
    counts = np.bincount(text.answers(text.rows(held_out=False)), minlength=size)
    return [int(token) for token in np.argsort(-counts, stable=True)[:size]]


def states_for(llama: Llama, text: TrainingText, work: Path, rows: list[int]) -> TargetStates:
    """The states of these rows: computed at each use on a GPU, kept in a file on a processor."""
    if torch.get_default_device().type != "cpu":
        return LiveStates(llama, text)
    stored = StoredStates(work, text, llama.hidden)
    stored.compute(llama, rows)
    return stored


def device_name() -> str:
    """What trained the head."""
    on_gpu = torch.get_default_device().type != "cpu"
    return str(torch.cuda.get_device_name()) if on_gpu else f"processor time, {processor_name()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the EAGLE-3 head of the small model.")
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=Settings.rate)
    parser.add_argument("--rows", type=int, default=Settings.rows, help="of a batch")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="of the training-time test")
    parser.add_argument("--gpu", action="store_true", help="train on this machine's NVIDIA GPU")
    parser.add_argument("--again", action="store_true", help="begin training anew")
    parser.add_argument("--export", action="store_true", help="replace the head in this folder at the end")
    parser.add_argument("--states-only", action="store_true", help="end before training")
    asked = parser.parse_args()
    if asked.gpu:
        torch.set_default_device("cuda")
    model, work = models.small(), write_text.folder()
    llama = Llama.load(model.weights("hf"))
    target = json.loads((model.weights("hf") / "config.json").read_text())
    text = pack()
    rows = text.rows(held_out=False)
    held = [row for group in training_text.GROUPS for row in text.rows(held_out=True, group=group)[:JUDGED]]
    states = states_for(llama, text, work, [*held, *rows])
    draft_tokens = frequent_tokens(text, DRAFT_VOCABULARY)
    covered = acceptance.coverage(draft_tokens, text, held)
    print(f"{len(rows)} rows, {text.answer_tokens(rows)} tokens; the draft vocabulary covers {covered:.4f} held out")
    if asked.states_only:
        return
    torch.manual_seed(0)
    head = Eagle3Head(head_files.shape_for(target, DRAFT_VOCABULARY, INTERMEDIATE), draft_tokens)
    spread = feature_spread(states, rows[:64], llama.hidden)
    head.start_from(llama.output, llama.norm, spread)
    checkpoint = work / "checkpoint.pt"
    if asked.again:
        checkpoint.unlink(missing_ok=True)
    settings = Settings(asked.updates, asked.steps, rows=asked.rows, rate=asked.rate)
    run = Training(head, llama.embedding, llama.output, spread, settings, checkpoint)
    run.run(text, states, rows)
    found = acceptance.measure(head, llama.embedding, text, states, held)
    print("held out, each:", found.each, "first k:", found.first)
    folder = HERE if asked.export else work / "head"
    head_files.save(head, target, folder)
    record = {
        "answers": len(rows), "tokens": text.answer_tokens(rows), "updates": run.update,
        "rows_a_batch": settings.rows, "seconds": round(run.seconds), "device": device_name(),
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

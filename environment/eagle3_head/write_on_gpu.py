"""Let SmolLM2 answer the prompts of prompts.py on this machine's NVIDIA GPU, in plain torch.

python -m environment.eagle3_head.write_on_gpu --tokens 3000000

`write_text` does the same with an engine, in hours on two cores. A small model leaves a big GPU idle unless a thousand
answers are written at once, and for that the reference model (shared/models/llama.py) is enough.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from environment.eagle3_head.prompts import Prompt, prompts
from environment.eagle3_head.write_text import MOST_TOKENS, folder, line, written_earlier
from shared import models
from shared.load.prompts import chat
from shared.models.llama import Llama


def pick(logits: Tensor, temperatures: Tensor) -> Tensor:
    """The next token of each row [B], from logits [B, vocabulary]: greedy at temperature 0, else drawn."""
    probabilities = (logits.float() / temperatures.clamp_min(1e-6)[:, None]).softmax(-1)
    drawn = torch.multinomial(probabilities, 1)[:, 0]
    return torch.where(temperatures > 0, drawn, logits.argmax(-1))


def answers(llama: Llama, asked: Sequence[list[int]], temperatures: Sequence[float]) -> list[list[int]]:
    """One answer to each prompt, of at most MOST_TOKENS tokens, its end token included."""
    counts, heat = torch.tensor([len(ids) for ids in asked]), torch.tensor(temperatures)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in asked], batch_first=True)
    ends, cache = torch.tensor(sorted(llama.ends)), llama.new_cache(len(asked), ids.shape[1] + MOST_TOKENS)
    chosen = [pick(llama.forward(ids, cache, counts), heat)]
    ended = torch.isin(chosen[0], ends)
    while len(chosen) < MOST_TOKENS and not bool(ended.all()):
        chosen.append(pick(llama.forward(chosen[-1][:, None], cache), heat))
        ended |= torch.isin(chosen[-1], ends)
    rows = torch.stack(chosen, 1).tolist()
    lengths = [next((i + 1 for i, token in enumerate(row) if token in llama.ends), len(row)) for row in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Let the small model write the head's text on an NVIDIA GPU.")
    parser.add_argument("--tokens", type=int, default=3_000_000, help="of all answers, those written earlier included")
    parser.add_argument("--rows", type=int, default=1024, help="answers at once")
    asked = parser.parse_args()
    torch.set_default_device("cuda")
    torch.manual_seed(0)
    where: Path = folder()
    where.mkdir(parents=True, exist_ok=True)
    done, have = written_earlier(where)
    model = models.small()
    llama = Llama.load(model.weights("hf"))
    todo = ((number, prompt) for number, prompt in enumerate(prompts()) if number not in done)
    began = time.monotonic()
    with (where / "answers-gpu.jsonl").open("a") as out, tqdm(total=asked.tokens, initial=have, unit=" tokens") as bar:
        while bar.n < asked.tokens:
            batch: list[tuple[int, Prompt]] = list(itertools.islice(todo, asked.rows))
            ids = [llama.prompt_ids(chat(model, prompt.question)) for _, prompt in batch]
            replies = answers(llama, ids, [prompt.temperature for _, prompt in batch])
            for (number, prompt), question, answer in zip(batch, ids, replies, strict=True):
                out.write(line(number, prompt, question, answer))
            bar.update(sum(map(len, replies)))
    print(f"{bar.n - have} tokens in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

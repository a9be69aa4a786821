"""The prompts that are sent to engines.

Every measured prompt has a nonce at the start of its first message. Two requests then share only the opening of the
chat template (OPENING_TOKENS), and no prefix cache helps by accident.
"""

import bisect
import functools
import itertools
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import LabError
from shared.models import hub
from shared.models.choice import ModelChoice

# The tokens that an engine with a cache of its last prompts (Ollama) can reuse of any prompt. `<|im_start|>`, `system`,
# a newline and `[` precede the nonce, and one of the nonce's characters may agree by chance. This count is for ChatML,
# the small model's template. Llama 3's opening is longer, since it states dates.
OPENING_TOKENS = 5

# Twelve questions on which engines are compared with the reference: facts, lists, code, numbers, other scripts.
CHECK_QUESTIONS = (
    "What is gravity?",
    "List three fruits.",
    "Write a haiku about a river.",
    "What is 17 + 25?",
    "Name the capital of France.",
    "Write a Python function that adds two numbers.",
    "Translate 'good morning' into Spanish.",
    "Explain photosynthesis in one sentence.",
    "Who wrote 'Romeo and Juliet'?",
    "Describe the year 1969 in two sentences.",
    "Why is the sky blue? Answer briefly — and in plain words.",
    "What does the word 'naïve' mean?",
)

SHORT_QUESTIONS = (
    "Explain why the sea is salty.",
    "Describe how a bicycle stays upright.",
    "Tell me how bread is baked.",
    "Explain what a rainbow is.",
    "Describe a day in a lighthouse.",
    "Tell me how a clock works.",
    "Explain why leaves change their colour.",
    "Describe how honey is made.",
    "Tell me about the history of paper.",
    "Explain how a sailing boat moves.",
    "Describe the life of a salmon.",
    "Tell me why we sleep.",
)


def chat(model: ModelChoice, question: str, nonce: str = "") -> list[dict[str, str]]:
    """One question as messages. The system message is always sent if the model's template takes one, because not every
    engine adds the default."""
    texts = {"system": model.system, "user": question} if model.system else {"user": question}
    if nonce:
        first = next(iter(texts))
        texts[first] = f"[{nonce}] {texts[first]}"
    return [{"role": role, "content": content} for role, content in texts.items()]


FILLER = (
    "The harbour lies on the north side of the island, where the water is deep enough for ferries.",
    "In winter the last boat leaves before four, and whoever misses it stays until the morning.",
    "A narrow road follows the coast, and goats cross it whenever they please.",
    "The bakery opens at six and is usually sold out by nine, except for the dark bread.",
    "Older people remember when there was a school here, with one teacher for all the children.",
    "On clear days the mountains of the mainland seem close enough to touch.",
    "Fishing has become rarer, yet every family still mends its own nets.",
    "The lighthouse was switched to electric light when the cable was laid across the strait.",
    "Visitors ask about the ruined chapel, and nobody agrees on who built it.",
    "When the wind turns to the east, the smell of thyme reaches the market place.",
    "A doctor comes twice a week and sees patients in a room above the post office.",
    "The well in the courtyard has never run dry, not even in the great drought.",
    "Letters arrive late, but they arrive, and the postman reads nothing but the addresses.",
    "At night only three lamps burn along the quay, so that the stars are easy to see.",
)


@dataclass(frozen=True)
class PromptSet:
    """An endless supply of prompts of one class, each with a nonce of its own."""

    name: str
    model: ModelChoice
    questions: tuple[str, ...]
    about_cache: bool = False  # whether a prefix cache is meant to help

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        for question in itertools.cycle(self.questions):
            yield chat(self.model, question, secrets.token_hex(4))


@dataclass(frozen=True)
class LongPrompts(PromptSet):
    """Prompts of exactly `input_tokens` tokens, template and nonce included."""

    input_tokens: int = 0

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        count = counter(self.model)
        for number in itertools.count():
            nonce, question = secrets.token_hex(4), self.questions[number % len(self.questions)]
            yield exactly(self.input_tokens, count, functools.partial(self.around, question, nonce), number)

    def around(self, question: str, nonce: str, text: str) -> list[dict[str, str]]:
        return chat(self.model, text + question, nonce)


@dataclass(frozen=True)
class SharedPrefix(PromptSet):
    """Prompts with one shared beginning of about `prefix_tokens` tokens. The nonce follows it, before the question."""

    prefix_tokens: int = 0

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        count = counter(self.model)
        beginning = exactly(self.prefix_tokens, count, lambda text: chat(self.model, text), 0)[-1]["content"]
        for question in itertools.cycle(self.questions):
            yield chat(self.model, f"{beginning}\n[{secrets.token_hex(4)}] {question}")


def short(model: ModelChoice) -> PromptSet:
    """Questions of about 40 tokens, template and nonce included."""
    return PromptSet("short", model, SHORT_QUESTIONS)


def long(model: ModelChoice, tokens: int) -> LongPrompts:
    """A text about an island and a question: exactly `tokens` tokens each, no two alike.

    Raises LabError if `tokens` is below 100, too few for the question, or above the model's context.
    """
    if not 100 <= tokens <= model.context:
        raise LabError(
            f"A long prompt of {tokens} tokens was requested, but {model.name} takes 100 to {model.context}.",
            f"choose a length from 100 to {model.context}",
        )
    return LongPrompts(f"long-{tokens}", model, ("\n\nWhat is told about the island?",), input_tokens=tokens)


def shared_prefix(model: ModelChoice, tokens: int) -> SharedPrefix:
    """The same text of `tokens` tokens before each question: the case that a prefix cache speeds up."""
    return SharedPrefix(f"shared-prefix-{tokens}", model, SHORT_QUESTIONS, about_cache=True, prefix_tokens=tokens)


@functools.cache
def tokenizer(folder: Path) -> Any:
    # AutoTokenizer chooses this class, too, for a folder with a tokenizer.json. But its import takes torch along, which
    # is seconds and some 300 MB.
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def counter(model: ModelChoice) -> Callable[[list[dict[str, str]]], int]:
    """A function that counts the tokens of a chat, with the model's own template and tokenizer."""
    folder = model.folder / "hf" if model.local else hub.fetch(model.source("hf", "BF16"))
    own = tokenizer(folder)

    def count(messages: list[dict[str, str]]) -> int:
        text = own.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return len(own.encode(text, add_special_tokens=False))

    return count


def exactly(
    tokens: int,
    count: Callable[[list[dict[str, str]]], int],
    around: Callable[[str], list[dict[str, str]]],
    number: int,
) -> list[dict[str, str]]:
    """Messages of exactly `tokens` tokens: filler sentences, then words of one token each.

    `number` decides the sentence at which the text begins. Raises LabError if this tokenizer doesn't reach the exact
    count.
    """

    def beginning(sentences: int) -> str:
        return " ".join(FILLER[(number + i) % len(FILLER)] for i in range(sentences))

    # Counting takes a millisecond for a thousand tokens, so search for the last sentence that fits by bisection.
    most = bisect.bisect_right(range(tokens // 5), tokens, key=lambda n: count(around(beginning(n))))
    text = beginning(max(0, most - 1))
    for _ in range(200):
        missing = tokens - count(around(text))
        if missing == 0:
            return around(text)
        text = text + " and" * missing if missing > 0 else text.rsplit(" ", 1)[0]
    raise LabError(f"No prompt of exactly {tokens} tokens was found in 200 attempts.", "choose another length")

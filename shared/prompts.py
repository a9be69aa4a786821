"""What engines are asked.

Every measured prompt begins with a nonce, right at the start of its first message: two requests then
share no more than the template's opening (OPENING_TOKENS), and no prefix cache helps by accident.
"""

import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from shared.models import ModelChoice

# `<|im_start|>`, `system`, a newline and `[` stand before the nonce, and one of its characters may agree by
# chance: what an engine that always keeps its last prompts (Ollama) can reuse of any prompt. (So for ChatML,
# the small model's template; Llama 3's opening is longer, since it states dates.)
OPENING_TOKENS = 5

# Twelve questions on which engines are held to the reference: facts, lists, code, numbers, other scripts.
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
    """One question as messages. The system message is always sent, if the model's template takes one: not every
    engine adds the default one."""
    texts = {"system": model.system, "user": question} if model.system else {"user": question}
    if nonce:
        first = next(iter(texts))
        texts[first] = f"[{nonce}] {texts[first]}"
    return [{"role": role, "content": content} for role, content in texts.items()]


@dataclass(frozen=True)
class PromptSet:
    """An endless supply of prompts of one class, each with a nonce of its own."""

    name: str
    model: ModelChoice
    questions: tuple[str, ...]

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        for question in itertools.cycle(self.questions):
            yield chat(self.model, question, secrets.token_hex(4))


def short(model: ModelChoice) -> PromptSet:
    """Questions of about 40 tokens with template and nonce."""
    return PromptSet("short", model, SHORT_QUESTIONS)

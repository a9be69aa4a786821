"""Take a model's chat template apart into the text before each message, and write it as a template for Ollama.

Hugging Face stores chat templates in Jinja, Ollama in Go's template language. For a template that Ollama doesn't know,
it uses ChatML, which gives a different prompt. So the Jinja template is rendered with marked messages, and the text
between the marks becomes a Go template. A template that is not a plain sequence of turns is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared import LabError
from shared.models.catalogue import ANOTHER_MODEL

DEFAULT_SYSTEM = "You are a helpful assistant."
MARK = "labs-mark-{}-"  # text that no template contains
TALKS = (("system", "user"), ("user",), ("system", "user", "assistant", "user"), ("user", "assistant", "user"))


@dataclass(frozen=True)
class Turns:
    """The literal text before each message, by (previous role, role), and after the last message."""

    before: dict[tuple[str, str], str]
    closing: str  # after the last message: starts the model's answer
    system: str  # the system message to send: the template's default or a plain one; "" if it takes none
    stops: tuple[str, ...]  # texts that end the model's turn

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """The prompt that the Go template makes from (role, content) pairs."""
        last, text = "", ""
        for role, content in messages:
            text += self.before[last, role] + content
            last = role
        return text + self.closing

    def ollama(self) -> str:
        """The Go template."""

        def text(last: str, role: str) -> str:
            return escape(self.before.get((last, role), ""))

        user = (
            '{{ if eq $last "system" }}'
            + text("system", "user")
            + '{{ else if eq $last "assistant" }}'
            + text("assistant", "user")
            + "{{ else }}"
            + text("", "user")
            + "{{ end }}"
        )
        return (
            '{{ $last := "" }}{{ range .Messages }}'
            + '{{ if eq .Role "system" }}'
            + text("", "system")
            + '{{ else if eq .Role "user" }}'
            + user
            + "{{ else }}"
            + text("user", "assistant")
            + "{{ end }}"
            + "{{ .Content }}{{ $last = .Role }}{{ end }}"
            + escape(self.closing)
        )


def escape(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def take_apart(tokenizer: Any) -> Turns:
    """The parts of the tokenizer's chat template. Raises LabError if it is missing or no plain sequence of turns."""
    if not tokenizer.chat_template:
        raise LabError("This model has no chat template, so it is not a chat model.", "choose an instruct model")

    def render(messages: Sequence[tuple[str, str]]) -> str:
        talk = [{"role": role, "content": content} for role, content in messages]
        text = str(tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False))
        # Without the beginning-of-text token if the tokenizer adds it, because an engine then adds it too.
        adds = tokenizer.bos_token and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
        return text.removeprefix(tokenizer.bos_token) if adds else text

    try:
        takes_system = MARK.format(0) in render([("system", MARK.format(0)), ("user", "a")])
    except Exception:  # a template that takes none raises an error of its own
        takes_system = False
    before: dict[tuple[str, str], str] = {}
    closings = set()
    for roles in TALKS if takes_system else TALKS[1::2]:
        marked = [(role, MARK.format(n)) for n, role in enumerate(roles)]
        rest = render(marked)
        for (role, mark), last in zip(marked, ("", *roles), strict=False):
            literal, found, rest = rest.partition(mark)
            if not found or before.setdefault((last, role), literal) != literal:
                raise not_plain()
        closings.add(rest)
    if len(closings) != 1:
        raise not_plain()
    turns = Turns(before, closings.pop(), "", ())
    ended = before["assistant", "user"]
    ends = [token for token in tokenizer.all_special_tokens if token and ended.startswith(token)]
    system = own_system(before) or DEFAULT_SYSTEM if takes_system else ""
    turns = Turns(before, turns.closing, system, tuple(dict.fromkeys(filter(None, [*ends, tokenizer.eos_token]))))
    talk = [
        ("user", "What is it?"),
        ("assistant", "It is this."),
        ("user", "And that?"),
        ("assistant", "That."),
        ("user", "Thanks."),
    ]
    talk = [("system", turns.system), *talk] if turns.system else talk
    if turns.render(talk) != render(talk):
        raise not_plain()
    return turns


def own_system(before: dict[tuple[str, str], str]) -> str:
    """The system message that the template adds by default, as in Qwen2.5 and SmolLM2; empty if it adds none."""
    start, end, alone = before["", "system"], before["system", "user"], before["", "user"]
    if alone.startswith(start) and alone.endswith(end) and len(alone) > len(start + end):
        return alone[len(start) : -len(end)]
    return ""


def not_plain() -> LabError:
    return LabError(
        "This model's chat template is not a plain sequence of turns, so it can't be rewritten for Ollama.",
        ANOTHER_MODEL,
    )

"""A model's chat template, taken apart: what stands before each message, and the same for Ollama.

Hugging Face keeps templates in Jinja, Ollama in Go's language, and for one that it doesn't know it takes
ChatML, which is another prompt. So the Jinja template is rendered with marked messages, and what stands
between the marks becomes a Go template. It is refused if it isn't a plain sequence of turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared import LabError

DEFAULT_SYSTEM = "You are a helpful assistant."
MARK = "labs-mark-{}-"  # no template has that text
TALKS = (("system", "user"), ("user",), ("system", "user", "assistant", "user"), ("user", "assistant", "user"))


@dataclass(frozen=True)
class Turns:
    """The literal text before each message, by (role before, role), and after the last one."""

    before: dict[tuple[str, str], str]
    closing: str  # asks for an answer
    system: str  # to send: the template's own default, or a plain one; "" if it takes no system message
    stops: tuple[str, ...]  # what ends the model's turn

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """What the Go template makes of (role, content) pairs."""
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
    """Raises LabError if there is no chat template, or it isn't a plain sequence of turns."""
    if not tokenizer.chat_template:
        raise LabError("This model has no chat template: it is not made for chats.", "choose an instruct model")

    def render(messages: Sequence[tuple[str, str]]) -> str:
        talk = [{"role": role, "content": content} for role, content in messages]
        text = str(tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False))
        # The beginning-of-text token, if the tokenizer adds it itself: an engine does so too.
        adds = tokenizer.bos_token and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
        return text.removeprefix(tokenizer.bos_token) if adds else text

    try:
        takes_system = MARK.format(0) in render([("system", MARK.format(0)), ("user", "a")])
    except Exception:  # templates that take none raise an error of their own choice
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
    """The system message that the template adds where there is none: Qwen2.5 and SmolLM2 do so."""
    start, end, alone = before["", "system"], before["system", "user"], before["", "user"]
    if alone.startswith(start) and alone.endswith(end) and len(alone) > len(start + end):
        return alone[len(start) : -len(end)]
    return ""


def not_plain() -> LabError:
    return LabError(
        "This model's chat template is no plain sequence of turns: Ollama could not be given the same one.",
        "choose another model",
    )

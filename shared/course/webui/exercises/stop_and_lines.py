"""The exercises `whole_lines`, which cuts a stream into lines, and `stop`, which makes the engine stop."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from shared.course import registry, starter
from shared.course.exercise import Exercise, Function, Wrong, short
from shared.load.loops import in_own_loop

LAB = registry.find_lab("3.3.6")
STREAM = '{"text": "Grüße"}\n\n{"text": "世界\u2028🙂"}\n \n{"text":\r"a\\nb\x0c"}\r\n{"te'.encode()
WHOLE = [b'{"text": "Gr\xc3\xbc\xc3\x9fe"}', '{"text": "世界\u2028🙂"}'.encode(), b'{"text":\r"a\\nb\x0c"}']
REST = b'{"te'
SOON_S = 4.0  # an answer has ended and is saved by then


def whole_lines(f: Function) -> None:
    try:
        got = f(STREAM)
    except TypeError as e:
        if "bytes-like" not in str(e) and "str" not in str(e):
            raise
        raise Wrong("The stream is bytes: its separators are bytes, too, as in b'\\n'.") from None
    if not isinstance(got, tuple) or len(got) != 2:
        raise Wrong(f"Return two values: the list of whole lines, and what is left. Yours returned {short(got)}.")
    whole, rest = list(got[0]), got[1]
    if any(isinstance(one, str) for one in [*whole, rest]):
        raise Wrong("Lines stay bytes: the rest may end in the middle of a character, which can't be decoded.")
    if REST in whole:
        raise Wrong(f"The line {REST!r} is not whole: no newline has come yet. It is what is left.")
    if any(one.endswith(b"\n") for one in whole):
        raise Wrong("The newline ends a line and is no part of it. Yours keeps it.")
    if [one for one in whole if one.strip()] == [one for one in STREAM.splitlines()[:-1] if one.strip()]:
        raise Wrong("splitlines() ends a line at \\r, too. Only b'\\n' ends one of Ollama's lines.")
    if any(not one.strip() for one in whole):
        raise Wrong("A line without anything but spaces is no event: leave it out.")
    if [one.rstrip(b"\r") for one in whole] != WHOLE:
        raise Wrong(f"The whole lines are {short(WHOLE)}; yours are {short(whole)}. Only b'\\n' ends a line.")
    if rest != REST:
        raise Wrong(f"What is left is {REST!r}; yours is {short(rest)}: the end of this line would be lost.")
    for data in (b"", b"\n", b"{}", b"{}\n"):
        wanted = [b"{}"] if data == b"{}\n" else [], b"{}" if data == b"{}" else b""
        if tuple(f(data)) != wanted:
            raise Wrong(f"whole_lines({data!r}) should return {wanted}; yours returned {short(f(data))}.")
    if (lost := f(half := STREAM[: STREAM.index(b"\xbc")])[1]) != half:
        raise Wrong(
            f"A block may end in the middle of a character. Of {half!r} all is left, but yours kept {short(lost)}. "
            "Don't decode it."
        )
    for size in range(1, 9):
        found: list[bytes] = []
        rest = b""
        for at in range(0, len(STREAM), size):
            whole, rest = f(rest + STREAM[at : at + size])
            found += whole
        if [one.rstrip(b"\r") for one in found] != WHOLE or rest != REST:
            raise Wrong(f"In blocks of {size} bytes, each joined to what was left before it, other lines come out.")


class Stage:
    """One answer of an engine that sends a piece, and then nothing until it is left."""

    def __init__(self, package: Any, ends: bool = False) -> None:
        self.ends, self.left, self.saved = ends, False, []  # type: tuple[bool, bool, list[str]]
        settings = SimpleNamespace(save_s=1000, leave_s=1000)
        history = SimpleNamespace(save=self.save)
        self.answer = package["answers"].Answer(1, 1, settings, history)
        self.package = package

    def save(self, message: int, text: str, thinking: str, state: str, note: str = "", stats: object = None) -> None:
        self.saved.append(state)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        try:
            yield {"text": "Once"}
            if not self.ends:
                await asyncio.sleep(3600)
            yield {"counters": {"reason": "stop"}}
        except asyncio.CancelledError:
            self.left = True
            raise
        except GeneratorExit:
            self.left = True
            raise

    async def context_length(self, target: str) -> None:
        await asyncio.sleep(0.2)  # the answer has ended, and its figures are still asked for

    def start(self) -> None:
        engines = SimpleNamespace(stream=lambda *_: self.events(), context_length=self.context_length)
        self.answer.start(engines, "ollama:x", [], {})

    async def end(self) -> None:
        """Wait for the end of the answer, whose task was cancelled or ends by itself."""
        if self.answer.leaving:
            self.answer.leaving.cancel()
        await asyncio.wait([self.answer.task], timeout=SOON_S)

    async def begun(self) -> bool:
        """Whether the first piece has come."""
        for _ in range(100):
            if self.answer.text or self.answer.task.done():
                break
            await asyncio.sleep(0.01)
        return bool(self.answer.text)


def stop(f: Function) -> None:
    if inspect.iscoroutinefunction(f):
        raise Wrong("stop is called without await: it must not be `async`.")
    with starter.installed(LAB, STOP, f) as package:
        in_own_loop(stop_scene(package))


async def stop_scene(package: Any) -> None:
    running = Stage(package)
    try:
        running.answer.stop("before it began")
    except AttributeError:
        raise Wrong("An answer may be stopped before it has a task: self.task is None then.") from None
    before = running.answer.state
    running.answer.note, running.answer.state = "", "running"
    running.start()
    if not await running.begun():
        raise Wrong("stop was called before the answer began, and now the answer doesn't begin.")
    running.answer.stop("somebody pressed stop")
    await asyncio.sleep(0.01)
    if running.answer.task is None:
        raise Wrong("self.task must stay: `events` sees by it whether the answer is saved. Only cancel it.")
    if not (running.answer.task.cancelling() or running.answer.task.done()):
        running.answer.task.cancel()
        await running.end()
        raise Wrong(
            "The engine goes on. The page shows that the answer has stopped, but the task still reads from the engine: "
            "cancel it."
        )
    await running.end()
    if not running.left:
        raise Wrong("The connection to the engine was not closed.")
    if running.answer.state != "stopped" or running.saved[-1:] != ["stopped"]:
        raise Wrong(f"The answer's state should be 'stopped', also in the history; it is {running.answer.state!r}.")
    if running.answer.note != "somebody pressed stop":
        raise Wrong("The note was lost. It tells the reader why the answer ends here.")
    if before != "running":
        raise Wrong(f"A stop before the answer began changed its state to {before!r}: do nothing then.")
    ended = Stage(package, ends=True)
    ended.start()
    for _ in range(int(SOON_S / 0.01)):
        if ended.answer.state != "running":
            break
        await asyncio.sleep(0.01)
    ended.answer.stop("too late")
    await ended.end()
    if ended.answer.state != "done" or ended.answer.note == "too late" or ended.saved[-1:] != ["done"]:
        raise Wrong(
            "A stop that comes after the end must change nothing: the answer was whole. Its task may still be saving "
            "it, so look at the state."
        )


LINES_OF_PYTHON = Exercise(
    "whole_lines", "exercise-whole-lines", 1, 3, 6,
    "The stream is cut where Ollama ended a line, wherever the network cut it.",
    (
        "Which of the pieces between the newlines is not whole yet?",
        "data.split(b\"\\n\") has one more piece than there are newlines: the last one is what is left.",
        "`*whole, rest = …` takes the last piece apart; then drop the lines that are empty.",
    ),
    whole_lines, "webui/engines.py",
)  # fmt: skip
STOP = Exercise(
    "stop", "exercise-stop", 2, 3, 10,
    "The engine has its seat free for the next request, because its client has gone.",
    (
        "What makes Ollama stop? There is no request for that. Which part of the server holds the connection to it?",
        "The task that runs `run` holds it, and `run` closes it in whatever way it ends.",
        "Only while the state is \"running\": keep the note, then self.task.cancel().",
    ),
    stop, "webui/answers.py", "Answer",
)  # fmt: skip

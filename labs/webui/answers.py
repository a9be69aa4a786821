"""Running answers. The server owns them, and pages listen.

A reload ends a page's connection, not the answer: the new page listens to it again. The answer ends in five ways:

    done      the engine has finished
    stopped   somebody pressed stop, or no page has listened for `leave_s` seconds
    failed    the engine reported an error, or ended
    lost      the server itself ended (history.py finds these at the next start)
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator

from webui.engines import Engines
from webui.errors import WebError
from webui.history import History, Row
from webui.settings import Settings

LEFT = "No page was open any more, so the engine was stopped. What had come is kept."
PIECE_S = 0.03  # between two pieces for a page: readers see no difference, and a fast engine's page draws half as often
AT_LIMIT = "The answer ends here because it reached the longest length, or the end of the context."


class Answer:
    """One answer, from the request to the engine to its last word."""

    def __init__(self, message: int, chat: int, settings: Settings, history: History) -> None:
        self.message, self.chat, self.settings, self.history = message, chat, settings, history
        self.entry = chat  # in the list of chats; of a pair only the left one is listed
        self.text = self.thinking = self.note = ""
        self.state = "running"
        self.stats: Row = {}
        self.changed = asyncio.Event()  # set at a change, which wakes all that wait, and then replaced
        self.listeners = 0
        self.leaving: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self, engines: Engines, target: str, messages: list[dict[str, str]], parameters: Row) -> None:
        self.task = asyncio.create_task(self.run(engines, target, messages, parameters))
        self.nobody_listens()

    async def run(self, engines: Engines, target: str, messages: list[dict[str, str]], parameters: Row) -> None:
        """Gather the events of the engine until it ends or `stop` cancels this."""
        began, first, last, saved = time.monotonic(), 0.0, 0.0, time.monotonic()
        counters: Row = {}
        try:
            async with contextlib.aclosing(engines.stream(target, messages, parameters)) as events:
                async for event in events:
                    counters = event.get("counters", counters)
                    if "counters" not in event:
                        last = time.monotonic()
                        first = first or last
                        self.text += whole_characters(event.get("text", ""))
                        self.thinking += whole_characters(event.get("thinking", ""))
                        pieces = self.stats.get("pieces", 0) + 1
                        took_ms = {"ttft_ms": (first - began) * 1e3, "elapsed_ms": (last - began) * 1e3}
                        self.stats = {**took_ms, "pieces": pieces}
                        self.tell()
                    if time.monotonic() - saved > self.settings.save_s:
                        saved = time.monotonic()
                        await asyncio.to_thread(self.history.save, self.message, self.text, self.thinking, "running")
            self.state = "done"
            self.note = AT_LIMIT if counters.get("reason") == "length" else ""
        except asyncio.CancelledError:
            self.state = "stopped"
        except WebError as e:
            self.state, self.note = "failed", f"{e.what} Fix: {e.fix}"
        except Exception as e:  # whatever else happens, the page must not wait for ever
            self.state, self.note = "failed", f"{type(e).__name__}: {e}. Fix: press Regenerate."
        finally:
            await self.finish(engines, target, counters, began, first, last)

    async def finish(
        self, engines: Engines, target: str, counters: Row, began: float, first: float, last: float
    ) -> None:
        """Work out the figures, save everything, and tell the pages."""
        tokens = counters.get("output_tokens")
        if "tok_s" not in counters and tokens and tokens > 1 and last > first:
            counters |= {"tok_s": (tokens - 1) / (last - first), "timed_here": True}
        self.stats |= {**counters, "total_ms": (time.monotonic() - began) * 1e3}
        if self.state == "done":
            self.stats["context_length"] = await engines.context_length(target)
        args = (self.message, self.text, self.thinking, self.state, self.note, self.stats)
        await asyncio.to_thread(self.history.save, *args)
        self.tell()

    def stop(self, note: str = "") -> None:
        """Make the engine stop now: cancelling the task closes the connection to it.

        note: why the answer ends here, for its reader. An answer that has ended, or not begun, stays as it is.
        """
        # TODO: cancel the task that reads from the engine
        raise NotImplementedError("answers: cancel the task that reads from the engine")

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def nobody_listens(self) -> None:
        """Stop the engine unless a page comes (back) soon."""
        self.leaving = asyncio.get_running_loop().call_later(self.settings.leave_s, self.stop, LEFT)

    async def events(self) -> AsyncGenerator[Row, None]:
        """All that there is so far, then what comes, gathered for PIECE_S, or longer for a page that reads slowly."""
        self.listeners += 1
        if self.leaving:
            self.leaving.cancel()
        text = thinking = 0
        try:
            while True:
                changed, state = self.changed, self.state
                if len(self.text) > text or len(self.thinking) > thinking:
                    piece = {"text": self.text[text:], "thinking": self.thinking[thinking:], "stats": self.stats}
                    text, thinking = len(self.text), len(self.thinking)  # before the page has it: more comes meanwhile
                    yield piece
                    await asyncio.sleep(PIECE_S)
                elif self.task is None or (state != "running" and self.task.done()):
                    break
                else:
                    await changed.wait()
            yield {"message": await asyncio.to_thread(self.history.message, self.message)}
        finally:
            self.listeners -= 1
            if not self.listeners and self.state == "running":
                self.nobody_listens()


def whole_characters(text: str) -> str:
    """Half a character (a lone surrogate, as "\\ud83d" in JSON) becomes U+FFFD: it can be neither sent nor saved."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Answers:
    """The running answers of this server, by the id of their message."""

    def __init__(self, settings: Settings, history: History, engines: Engines) -> None:
        self.settings, self.history, self.engines = settings, history, engines
        self.running: dict[int, Answer] = {}
        self.beginning: set[int] = set()  # chats whose next answer is being prepared

    @contextlib.contextmanager
    def claim(self, chat: int) -> Iterator[None]:
        """Hold a chat while its next answer is prepared. Raises WebError if one is prepared or running already."""
        if chat in self.beginning or self.of_chats([chat]):
            raise WebError(409, "This chat's last answer is still being written.", "Stop it first, or wait.")
        self.beginning.add(chat)
        try:
            yield
        finally:
            self.beginning.remove(chat)

    async def start(self, chat: Row, question: int) -> int:
        """Begin an answer to this message. Returns the id of the answer's message."""
        path = await asyncio.to_thread(self.history.path, question, 1_000_000)
        add = self.history.add
        message = await asyncio.to_thread(add, chat["id"], question, "assistant", "", chat["target"], "running")
        messages = [{"role": one["role"], "content": one["text"]} for one in path]
        if chat["system"]:
            messages.insert(0, {"role": "system", "content": chat["system"]})
        answer = self.running[message] = Answer(message, chat["id"], self.settings, self.history)
        answer.entry = chat["pair"] or chat["id"]
        answer.start(self.engines, chat["target"], messages, chat["parameters"])
        assert answer.task

        def ended(_: object) -> None:
            del self.running[message]
            answer.tell()

        answer.task.add_done_callback(ended)
        return message

    async def events(self, message: int) -> AsyncGenerator[Row, None]:
        """The events of an answer. One that has ended, perhaps before its page could listen, is sent as one piece."""
        if answer := self.running.get(message):
            async with contextlib.aclosing(answer.events()) as events:
                async for event in events:
                    yield event
        else:
            ended = await asyncio.to_thread(self.history.message, message)
            yield {name: ended[name] for name in ("text", "thinking", "stats")}
            yield {"message": ended}

    def stop(self, message: int) -> bool:
        """Stop an answer; whether it was running."""
        answer = self.running.get(message)
        if answer:
            answer.stop()
        return answer is not None

    def of_chats(self, chats: list[int]) -> list[Answer]:
        return [answer for answer in self.running.values() if answer.chat in chats]

    async def end(self) -> None:
        """Stop all, and wait until they are saved."""
        tasks = [answer.task for answer in self.running.values() if answer.task]
        for answer in list(self.running.values()):
            answer.stop("The server was shut down. What had come is kept.")
        await asyncio.gather(*tasks, return_exceptions=True)

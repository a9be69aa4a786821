"""The exercises `unless_client_leaves` and `try_engines`: when the client leaves, and when an engine fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from shared.course import registry, starter
from shared.course.exercise import Exercise, Function, Wrong
from shared.course.gateway.exercises.virtual_time import now_s, play

FILE = "gateway/relay.py"
LAB = registry.find_lab("3.3.5")


def unless_client_leaves(f: Function) -> None:
    def connection(*messages: str) -> Callable[[], Awaitable[dict[str, Any]]]:
        """`receive`, which waits a second before each message, and for ever after the last."""
        rest = list(messages)

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(1 if rest else 10_000)
            return {"type": rest.pop(0) if rest else "http.disconnect"}

        return receive

    async def work(state: dict[str, Any], seconds: float, error: Exception | None = None) -> None:
        try:
            await asyncio.sleep(seconds)
            if error:
                raise error
            state["ended"] = "to its end"
        except asyncio.CancelledError:
            state["ended"] = "cancelled"
            raise
        finally:
            await asyncio.sleep(0.5)  # closes its connection to the engine
            state["clean"] = True

    def left_over() -> bool:
        return len(asyncio.all_tasks()) > 1

    async def stays() -> None:
        state: dict[str, Any] = {}
        got = await f(work(state, 5), connection("http.request"))
        if state.get("ended") == "cancelled":
            raise Wrong(
                "Only http.disconnect means that the client has left. After any other message, go on listening."
            )
        if now_s() > 1100:
            raise Wrong("The work has ended, but the function still waits for the client. Stop listening then.")
        if got is not True:
            raise Wrong(f"The work ended while the client was there: return True. Yours returned {got!r}.")
        if left_over():
            raise Wrong("A task still listens to the connection after the return. Cancel it, and await its end.")

    async def completes() -> None:
        complete = asyncio.Event()

        async def answering() -> None:
            await asyncio.sleep(5)
            complete.set()  # as uvicorn does when it has got the last bytes

        async def receive() -> dict[str, Any]:
            await complete.wait()
            return {"type": "http.disconnect"}

        got = await f(answering(), receive)
        if got is not True:
            raise Wrong(
                "The message http.disconnect also comes once the answer is complete, in the moment in which the work "
                f"ends. If the work is done, return True, whatever came. Yours returned {got!r}."
            )
        if left_over():
            raise Wrong("A task goes on after the return.")

    async def leaves() -> None:
        state: dict[str, Any] = {}
        got = await f(work(state, 5000), connection("http.request", "http.disconnect"))
        if state.get("ended") == "to its end" or now_s() > 1500:
            raise Wrong("The client left after 2 s, and the work went on to its end: it keeps the engine's slot.")
        if not state.get("clean"):
            raise Wrong("When the function returns, the work has not cleaned up yet. After cancel(), await its end.")
        if got is not False:
            raise Wrong(f"The client left: return False. Yours returned {got!r}.")
        if left_over():
            raise Wrong("A task goes on after the return.")

    async def fails() -> None:
        error = ValueError("broken")
        try:
            await f(work({}, 1, error), connection())
        except BaseExceptionGroup:
            raise Wrong("The work's own error must be raised. An asyncio.TaskGroup wraps it in a group.") from None
        except ValueError as e:
            if e is error:
                if left_over():
                    raise Wrong("After an error of the work, a task still listens to the connection.") from None
                return
        raise Wrong("The work raised an error, which must be raised here, too. Yours swallowed it.")

    async def ends_itself() -> None:
        state: dict[str, Any] = {}
        task = asyncio.ensure_future(f(work(state, 5000), connection()))
        await asyncio.sleep(2)
        task.cancel()
        await asyncio.wait((task,), timeout=10)
        if not state.get("clean"):
            raise Wrong(
                "The function itself was cancelled (the gateway shuts down), and the work goes on. "
                "Cancel both tasks in a `finally`, and await them."
            )
        if not task.cancelled():
            raise Wrong("When the function itself is cancelled, it must end with CancelledError.")
        if left_over():
            raise Wrong("The function itself was cancelled, and a task still listens to the connection. Cancel both.")

    for scene in (stays, completes, leaves, fails, ends_itself):
        play(f, scene)


class Named:
    """An engine of which only the name is needed."""

    def __init__(self, name: str) -> None:
        self.name = name


class Again(BaseException):
    """The function doesn't stop asking. No Exception, so that no `except Exception` catches it."""


def try_engines(f: Function) -> None:
    package = starter.package_of(LAB, f)
    failed_type, api_error = package["relay"].EngineFailed, package["errors"].ApiError
    first, second = Named("first"), Named("second")

    def failure(engine: Any, status: int = 502) -> Any:
        return failed_type(engine, "reset", "broke the connection", status)

    nobody = api_error(503, "No engine is available.", "no_engine", 1)

    async def played(outcomes: list[Any], begun_after: int = 99, deadline_in_s: float = 100) -> tuple[Any, list[Any]]:
        """What it raised (None: it returned), and the sets with which `attempt` was called."""
        asked: list[Any] = []

        async def attempt(tried: Any) -> None:
            if not isinstance(tried, frozenset):
                raise Wrong(f"`attempt` gets a frozenset, which has a hash; yours is a {type(tried).__name__}.")
            asked.append(tried)
            if len(asked) > 12:
                raise Again
            await asyncio.sleep(10)
            outcome = outcomes[len(asked) - 1] if len(asked) <= len(outcomes) else nobody
            if outcome is not None:
                raise outcome

        try:
            await f(attempt, lambda: len(asked) >= begun_after, now_s() + deadline_in_s)
        except (NotImplementedError, Wrong):
            raise
        except Again:
            raise Wrong(
                "It asks for ever. Put a failed engine into `tried`, and stop when `attempt` finds no engine."
            ) from None
        except Exception as e:
            return e, asked
        return None, asked

    async def scene() -> None:
        raised, asked = await played([None])
        if raised or len(asked) != 1:
            raise Wrong("The first attempt succeeded: one attempt, and nothing is raised.")
        one = failure(first)
        raised, asked = await played([one, None])
        if raised is one:
            raise Wrong(
                "The engine failed before the client had a byte: another engine must be tried, as long as "
                "time.monotonic() is before deadline_s."
            )
        if raised or len(asked) != 2:
            raise Wrong(f"One engine failed and the next answered: two attempts, nothing raised. Yours: {raised!r}.")
        if set(asked[0]) or set(asked[1]) != {first}:
            raise Wrong("`attempt` gets the engines that failed already: first none, then the failed one (`e.engine`).")
        raised, asked = await played([one, failure(second), None])
        if len(asked) == 3 and set(asked[2]) != {first, second}:
            raise Wrong("After two failures both engines are in `tried`. Yours forgot one.")
        if raised or len(asked) != 3:
            raise Wrong("Two engines failed, and a third would have answered. Go on until `attempt` finds no engine.")
        many = [failure(Named(f"engine {number}")) for number in range(6)]
        raised, asked = await played([*many, None])
        if raised or len(asked) != 7:
            raise Wrong(
                "Six engines failed, and a seventh would have answered. No number limits the attempts: go on until "
                "`attempt` finds no engine."
            )
        raised, asked = await played([failure(first, 429), None])
        if raised or len(asked) != 2:
            raise Wrong(
                "An engine was busy (status 429), and another one was free: EngineFailed is a reason, whatever "
                "its status."
            )
        raised, asked = await played([one, None], begun_after=1)
        if len(asked) > 1:
            raise Wrong(
                "The client had a part of the answer already, and the next engine began it again from the start. "
                "After the first byte there is no second attempt: has_begun()."
            )
        if raised is not one:
            raise Wrong("A failure after the first byte must be raised, so that the stream ends with an error.")
        raised, asked = await played([one, None], deadline_in_s=5)
        if len(asked) > 1:
            raise Wrong("The deadline had passed, and there was another attempt: compare time.monotonic().")
        if raised is not one:
            raise Wrong("After the deadline the engine's failure must be raised.")
        raised, asked = await played([one, nobody])
        if raised is nobody:
            raise Wrong("The client learns that there is no engine (left). It should learn why the engine failed.")
        if raised is not one:
            raise Wrong(f"With no engine left, the failure of the engine must be raised; yours: {raised!r}.")
        two = failure(second)
        raised, asked = await played([one, two, nobody])
        if raised is not two:
            raise Wrong("Two engines failed, and no other one is left: the failure of the last one must be raised.")
        raised, asked = await played([nobody])
        if raised is not nobody:
            raise Wrong(f"There was no engine from the start: that ApiError must be raised; yours: {raised!r}.")
        odd = ValueError("a bug")
        for outcomes, attempts in (([odd, None], 1), ([one, odd], 2)):
            raised, asked = await played(outcomes)
            if raised is not odd or len(asked) != attempts:
                raise Wrong("Only EngineFailed is a reason to try again. Any other error must be raised at once.")

    play(f, scene)


LEAVE = Exercise(
    "unless_client_leaves", "exercise-unless-client-leaves", 3, 3, 15,
    "The seat of a client that has left is free at once, and the connection to its engine is closed.",
    (
        "Two things can happen first: the work ends, or a message says that the client has left.",
        "Make a task of each, and asyncio.wait with return_when=asyncio.FIRST_COMPLETED.",
        "In a `finally`: cancel both, then `await asyncio.gather(working, listening, return_exceptions=True)`.",
    ),
    unless_client_leaves, FILE,
)  # fmt: skip
FAIL = Exercise(
    "try_engines", "exercise-try-engines", 2, 3, 12,
    "A failure that the client can't see is repaired, and one that it has seen is reported.",
    (
        "What can be taken back, once the client has a part of the answer?",
        "Catch EngineFailed before ApiError, since it is one, and remember the failure.",
        "`tried = tried | {e.engine}`; raise instead if has_begun(), or time.monotonic() >= deadline_s.",
    ),
    try_engines, FILE,
)  # fmt: skip

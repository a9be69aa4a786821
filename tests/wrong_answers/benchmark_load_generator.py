"""Lab 3.3.1, the exercise that writes a closed loop."""

import asyncio
from collections.abc import Awaitable, Callable

Send = Callable[[int], Awaitable[str]]


async def all_at_once(users: int, requests: int, send: Send) -> list[str]:
    return list(await asyncio.gather(*(send(number) for number in range(requests))))


async def one_after_the_other(users: int, requests: int, send: Send) -> list[str]:
    return [await send(number) for number in range(requests)]


async def in_waves(users: int, requests: int, send: Send) -> list[str]:
    answers: list[str] = []
    for first in range(0, requests, users):
        answers += await asyncio.gather(*(send(n) for n in range(first, min(first + users, requests))))
    return answers


async def fixed_shares(users: int, requests: int, send: Send) -> list[str]:
    answers: list[str] = []

    async def user(place: int) -> None:
        for number in range(place, requests, users):
            answers.append(await send(number))

    await asyncio.gather(*map(user, range(users)))
    return answers


async def last_first(users: int, requests: int, send: Send) -> list[str]:
    numbers = list(range(requests))
    answers: list[str] = []

    async def user() -> None:
        while numbers:
            answers.append(await send(numbers.pop()))

    await asyncio.gather(*(user() for _ in range(users)))
    return answers


async def remainder_lost(users: int, requests: int, send: Send) -> list[str]:
    numbers = iter(range(requests // users * users))
    answers: list[str] = []

    async def user() -> None:
        for number in numbers:
            answers.append(await send(number))

    await asyncio.gather(*(user() for _ in range(users)))
    return answers


async def each_sends_all(users: int, requests: int, send: Send) -> list[str]:
    answers: list[str] = []

    async def user() -> None:
        for number in range(requests):
            answers.append(await send(number))

    await asyncio.gather(*(user() for _ in range(users)))
    return answers


async def each_of_a_group_sends_all(users: int, requests: int, send: Send) -> list[str]:
    """A TaskGroup raises its errors as a group."""
    answers: list[str] = []

    async def user() -> None:
        for number in range(requests):
            answers.append(await send(number))

    async with asyncio.TaskGroup() as group:
        for _ in range(users):
            group.create_task(user())
    return answers


async def in_order_of_sending(users: int, requests: int, send: Send) -> list[str]:
    seats = asyncio.Semaphore(users)

    async def one(number: int) -> str:
        async with seats:
            return await send(number)

    return list(await asyncio.gather(*map(one, range(requests))))


async def nothing_returned(users: int, requests: int, send: Send) -> None:
    await semaphore_and_queue(users, requests, send)


async def only_numbers(users: int, requests: int, send: Send) -> list[int]:
    await semaphore_and_queue(users, requests, send)
    return list(range(requests))


async def not_started(users: int, requests: int, send: Send) -> list[str]:
    queue: asyncio.Queue[int] = asyncio.Queue()
    return [await send(await queue.get()) for _ in range(requests)]


def no_coroutine(users: int, requests: int, send: Send) -> list[str]:
    return []


async def semaphore_and_queue(users: int, requests: int, send: Send) -> list[str]:
    """Right, and not written as ours is."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    for number in range(requests):
        queue.put_nowait(number)
    answers: list[str] = []

    async def user() -> None:
        while not queue.empty():
            answer = await send(queue.get_nowait())
            answers.append(answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(users):
            group.create_task(user())
    return answers


ANSWERS = {
    "closed_loop": [
        ("were under way at once, with", all_at_once),
        ("Start a task for each user", one_after_the_other),
        ("Don't wait for the other users of a wave", in_waves),
        ("don't give each user a fixed share", fixed_shares),
        ("Does a remainder get lost?", remainder_lost),
        ("was sent twice", each_sends_all),
        ("was sent twice", each_of_a_group_sends_all),
        ("not in the order in which they ended", in_order_of_sending),
        ("Send them by their numbers", last_first),
        ("returned nothing. Return the answers.", nothing_returned),
        ("is not what `send` returned", only_numbers),
        ("It waits for ever", not_started),
        ("is no `async def`", no_coroutine),
    ],
}
RIGHT = {"closed_loop": semaphore_and_queue}

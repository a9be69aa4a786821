"""Who gets in: keys, rates, the queue, and who is served first when there is too much."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared import paths
from tests.helpers.gateway import HELLO, MANY, Gateway, bearer, running, write_keys
from tests.helpers.truth import TruthEngine


@pytest.fixture(scope="module")
def busy(two: TruthEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two seats and a short queue, for a paid and a free key."""
    folder = tmp_path_factory.mktemp("busy")
    write_keys(folder / "keys.toml", {"paid": {"priority": "paid"}, "free": {}})
    settings = {**MANY, "keys_file": str(folder / "keys.toml"), "most_queued": 4}
    with running(folder, {"two": two.url}, seats=2, **settings) as gateway:
        yield gateway


async def at_once(gateway: Gateway, asked: list[dict[str, Any]], name: str) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30, headers=bearer(name)) as client:
        return await asyncio.gather(*(client.post("/v1/chat/completions", json={**HELLO, **one}) for one in asked))


def test_keys_come_and_go_without_a_restart_and_their_text_is_nowhere(one: TruthEngine, tmp_path: Path) -> None:
    file = write_keys(tmp_path / "keys.json", {"anna": {}})
    with running(tmp_path, {"one": one.url}, keys_file=str(file)) as gateway:

        def status(name: str) -> int:
            return gateway.client.post("/v1/chat/completions", json=HELLO, headers=bearer(name)).status_code

        assert (status("anna"), status("ben"), gateway.chat().status_code) == (200, 401, 401)
        write_keys(file, {"ben": {}, "carla": {}})
        assert (status("anna"), status("ben")) == (401, 200)
        file.write_text('{"keys": {"ben": {"hash": 7}}}')
        assert (status("ben"), status("carla")) == (200, 200), "a broken file changes nothing"
        assert "keys.json" in gateway.client.get("/health").json()["keys"]
        assert gateway.count("generation_tokens_total", key="ben") == 16
        assert "sk-" not in gateway.log.read_text()
        assert "Hello" not in gateway.log.read_text(), "no prompt is logged"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('host = "0.0.0.0"', "set keys_file, or use 127.0.0.1"),
        ("port = 99999", "port: "),
        ("prot = 1", "prot: "),
        ('keys_file = "nowhere.json"', "The keys can't be read"),
        ('[engines.x]\nurl = "localhost"', "https?://"),
        ("port = = 3", "The configuration can't be read"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: str, said: str) -> None:
    (tmp_path / "x.toml").write_text(settings)
    env = {"GATEWAY_CONFIG": str(tmp_path / "x.toml"), "PYTHONPATH": str(paths.REPO / "solutions"), "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-m", "gateway"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_has_its_rate_and_its_concurrency(one: TruthEngine, tmp_path: Path) -> None:
    slow, narrow = {"requests_per_minute": 6, "burst": 2}, {"concurrent": 2}
    file = write_keys(tmp_path / "keys.json", {"slow": {"limits": slow}, "narrow": {"limits": narrow}})
    with running(tmp_path, {"one": one.url}, keys_file=str(file), seats=32) as gateway:
        began_s = time.monotonic()
        quick = asyncio.run(at_once(gateway, [{}] * 4, "slow"))
        took_s = time.monotonic() - began_s
        assert sorted(answer.status_code for answer in quick) == [200, 200, 429, 429]
        refused = [answer for answer in quick if answer.status_code == 429]
        assert all(10 - took_s <= int(answer.headers["retry-after"]) <= 10 for answer in refused), "one each 10 s"
        long = [{"truth": {"tokens": 20, "gap_s": 0.1}}] * 5  # so long that all five come while two run
        assert sorted(a.status_code for a in asyncio.run(at_once(gateway, long, "narrow"))) == [200] * 2 + [429] * 3


def test_what_a_keys_limits_leave_open_is_as_in_the_settings(one: TruthEngine, tmp_path: Path) -> None:
    file = write_keys(tmp_path / "keys.json", {"anna": {"limits": {"concurrent": 3}}})
    limits = {"requests_per_minute": 1, "burst": 2, "concurrent": 64}
    with running(tmp_path, {"one": one.url}, keys_file=str(file), limits=limits) as gateway:
        answers = [gateway.client.post("/v1/chat/completions", json=HELLO, headers=bearer("anna")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"


async def ask(client: httpx.AsyncClient, name: str, order: list[str], **truth: object) -> httpx.Response:
    headers = {"authorization": f"Bearer sk-{name}", "x-request-id": f"{name}-{len(order)}"}
    answer = await client.post("/v1/chat/completions", json={**HELLO, "stream": True, "truth": truth}, headers=headers)
    order.append(f"{name} {answer.status_code}")
    return answer


def test_at_ten_times_the_load_the_refusals_come_first_and_name_a_time(busy: Gateway) -> None:
    """2 seats and 4 places in the queue get 60 requests at once."""
    order: list[str] = []

    async def everyone() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=busy.url, trust_env=False, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(ask(client, "free", order, ttft_s=3, gap_s=0) for _ in range(60)))

    answers = asyncio.run(everyone())
    assert order == ["free 429"] * 54 + ["free 200"] * 6, "no refusal waited for an answer"
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) >= 1
    assert busy.count("requests_refused_total", reason="queue full") == 54


def test_paid_requests_are_served_before_free_ones_that_came_earlier(busy: Gateway, two: TruthEngine) -> None:
    before = len(two.records())
    order: list[str] = []

    async def everyone() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=busy.url, trust_env=False, timeout=60, limits=limits) as client:
            # The two that run take long, so that all others wait before a seat is free, on a busy machine, too.
            seated = [asyncio.create_task(ask(client, "free", order, ttft_s=3, gap_s=0)) for _ in range(2)]
            while busy.count("num_requests_running") < 2:
                await asyncio.sleep(0.01)
            free = [asyncio.create_task(ask(client, "free", order, ttft_s=0.2, gap_s=0)) for _ in range(4)]
            while busy.count("num_requests_waiting") < 4:
                await asyncio.sleep(0.01)
            paid = [asyncio.create_task(ask(client, "paid", order, ttft_s=0.2, gap_s=0)) for _ in range(3)]
            await asyncio.gather(*seated, *free, *paid)

    asyncio.run(everyone())
    assert [line for line in order if "paid" in line] == ["paid 200"] * 3
    served = ["paid" if "x-request-id: paid" in record["head"] else "free" for record in two.records()[before:]]
    assert served[:5] == ["free"] * 2 + ["paid"] * 3, "the two that ran already, and then"


def test_a_paying_key_loses_nothing_while_a_free_one_asks_for_ten_times_what_there_is(busy: Gateway) -> None:
    order: list[str] = []

    async def everyone() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=busy.url, trust_env=False, timeout=60, limits=limits) as client:
            plan, tasks = {"ttft_s": 0.3, "gap_s": 0}, []
            for _ in range(10):  # each time there is room for two requests, and 21 come
                tasks += [asyncio.create_task(ask(client, "free", order, **plan)) for _ in range(20)]
                tasks.append(asyncio.create_task(ask(client, "paid", order, **plan)))
                await tasks[-1]  # else, on a busy machine, the paid requests fill the queue themselves
            await asyncio.gather(*tasks)

    asyncio.run(everyone())
    assert [line for line in order if "paid" in line] == ["paid 200"] * 10
    assert set(order) == {"paid 200", "free 200", "free 429"}


def test_waiting_too_long_ends_with_503(one: TruthEngine, tmp_path: Path) -> None:
    with running(tmp_path, {"one": one.url}, seats=1, queue_s=0.3) as gateway:
        long = {"truth": {"tokens": 20, "gap_s": 0.1}}
        answers = asyncio.run(at_once(gateway, [long] * 2, "x"))
        assert sorted(answer.status_code for answer in answers) == [200, 503]

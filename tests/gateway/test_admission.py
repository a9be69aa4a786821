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
from tests.helpers.gateway import HELLO, Gateway, bearer, running, write_keys
from tests.helpers.truth import TruthEngine


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("truth") / "log") as engine:
        yield engine


async def at_once(gateway: Gateway, asked: list[dict[str, Any]], name: str) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30, headers=bearer(name)) as client:
        return await asyncio.gather(*(client.post("/v1/chat/completions", json={**HELLO, **one}) for one in asked))


def test_keys_come_and_go_without_a_restart_and_their_text_is_nowhere(truth: TruthEngine, tmp_path: Path) -> None:
    file = write_keys(tmp_path / "keys.json", {"anna": {}})
    with running(tmp_path, {"one": truth.url}, keys_file=str(file)) as gateway:

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
    done = subprocess.run([sys.executable, "-m", "gateway"], env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_has_its_rate_and_its_concurrency(truth: TruthEngine, tmp_path: Path) -> None:
    slow, narrow = {"requests_per_minute": 60, "burst": 2}, {"concurrent": 2}
    file = write_keys(tmp_path / "keys.json", {"slow": {"limits": slow}, "narrow": {"limits": narrow}})
    with running(tmp_path, {"one": truth.url}, keys_file=str(file), seats=32) as gateway:
        quick = asyncio.run(at_once(gateway, [{}] * 4, "slow"))
        assert sorted(answer.status_code for answer in quick) == [200, 200, 429, 429]
        refused = [answer for answer in quick if answer.status_code == 429]
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        long = [{"truth": {"tokens": 20, "gap_s": 0.02}}] * 5
        assert sorted(a.status_code for a in asyncio.run(at_once(gateway, long, "narrow"))) == [200] * 2 + [429] * 3


def test_a_full_queue_refuses_at_once_and_paid_keys_stand_before_free_ones(truth: TruthEngine, tmp_path: Path) -> None:
    file = write_keys(tmp_path / "keys.json", {"paid": {"priority": "paid"}, "free": {}})
    with running(tmp_path, {"one": truth.url}, keys_file=str(file), seats=1, most_queued=4) as gateway:

        async def everyone() -> tuple[list[httpx.Response], list[httpx.Response], float]:
            long = {"truth": {"tokens": 10, "gap_s": 0.03}}
            free = asyncio.create_task(at_once(gateway, [long] * 10, "free"))
            await asyncio.sleep(0.2)
            began = time.perf_counter()
            paid = await at_once(gateway, [long] * 3, "paid")
            return await free, paid, time.perf_counter() - began

        free, paid, took_s = asyncio.run(everyone())
        assert [answer.status_code for answer in paid] == [200] * 3
        assert took_s < 10 * 0.3, "not behind the free ones"
        assert sum(answer.status_code == 200 for answer in free) == 5, "one ran and four waited"
        assert {answer.json()["error"]["code"] for answer in free if answer.status_code == 429} == {"queue_full"}


def test_waiting_too_long_ends_with_503(truth: TruthEngine, tmp_path: Path) -> None:
    with running(tmp_path, {"one": truth.url}, seats=1, queue_s=0.3) as gateway:
        long = {"truth": {"tokens": 20, "gap_s": 0.05}}
        answers = asyncio.run(at_once(gateway, [long] * 2, "x"))
        assert sorted(answer.status_code for answer in answers) == [200, 503]

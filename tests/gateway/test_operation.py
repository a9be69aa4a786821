"""What whoever runs the gateway relies on: its commands, several workers, logs, pages for operators, reserved seats."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from shared.processes import free_port, port_taken
from tests.helpers.gateway import HELLO, MANY, TREE, Gateway, bearer, naming_models, running, write_keys
from tests.helpers.truth import TruthEngine


def command(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m gateway` with these arguments and variables."""
    env = {"PYTHONPATH": str(TREE), "PATH": "/usr/bin", **env}
    program = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(program, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


def status(gateway: Gateway, token: str) -> int:
    return gateway.client.get("/v1/models", headers={"authorization": f"Bearer {token}"}).status_code


def workers(gateway: Gateway) -> set[int]:
    """The processes that answer, of a gateway with several."""
    found = set()
    for process in psutil.Process(gateway.pid).children():
        with contextlib.suppress(psutil.Error):  # it ends just now
            if "spawn_main" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def eventually(true: Any, seconds: float = 25) -> bool:
    """Whether it comes to hold: sooner than uvicorn gives a worker up that does not answer, after 30 s."""
    end = time.monotonic() + seconds
    while not (found := bool(true())) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_keys_are_added_and_revoked_while_the_gateway_runs(one: TruthEngine, tmp_path: Path) -> None:
    file, where = tmp_path / "keys.json", {"GATEWAY_KEYS_FILE": str(tmp_path / "keys.json")}
    added = command(tmp_path, "keys", "add", "anna", "--priority", "paid", "--burst", "7", **where)
    token = re.search(r"sk-\S{40,}", added.stdout)
    assert token, added.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    with running(tmp_path, {"one": one.url}, keys_file=str(file)) as gateway:
        assert status(gateway, token[0]) == 200
        second = re.search(r"sk-\S+", command(tmp_path, "keys", "add", "ben", **where).stdout)
        assert second
        assert (status(gateway, token[0]), status(gateway, second[0])) == (200, 200)
        assert second[0] not in file.read_text()
        listed = command(tmp_path, "keys", "list", **where).stdout
        assert "anna  paid" in listed
        assert '"burst":7' in listed
        assert "sk-" not in listed
        assert command(tmp_path, "keys", "revoke", "anna", **where).returncode == 0
        assert (status(gateway, token[0]), status(gateway, second[0])) == (401, 200)
        assert command(tmp_path, "keys", "revoke", "anna", **where).stderr == "There is no key anna.\n"


def test_a_key_is_added_once_and_only_if_it_would_work(tmp_path: Path) -> None:
    file, where = tmp_path / "keys.json", {"GATEWAY_KEYS_FILE": str(tmp_path / "keys.json")}
    assert command(tmp_path, "keys", "add", "anna", **where).returncode == 0
    before = file.read_text()
    again = command(tmp_path, "keys", "add", "anna", **where)
    assert (again.returncode, "anna has a key already" in again.stderr) == (1, True), "the first one would be lost"
    few = command(tmp_path, "keys", "add", "bob", "--concurrent", "2", **where, GATEWAY_WORKERS="4")
    assert (few.returncode, "4 workers need a burst and a concurrency" in few.stderr) == (1, True)
    for done in (again, few):
        assert "sk-" not in done.stdout, "a key that never works"
    assert file.read_text() == before


def test_keys_that_are_added_at_once_are_all_there(tmp_path: Path) -> None:
    """Each command reads the file, and writes it anew: with many keys that takes a while."""
    write_keys(tmp_path / "keys.json", {f"earlier-{number}": {} for number in range(20_000)})
    where = {"GATEWAY_KEYS_FILE": str(tmp_path / "keys.json")}
    names = [f"student-{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as at_once:
        added = list(at_once.map(lambda name: command(tmp_path, "keys", "add", name, **where), names))
    assert [one.returncode for one in added] == [0] * len(names)
    listed = command(tmp_path, "keys", "list", **where).stdout
    assert sorted(line.split()[0] for line in listed.splitlines() if "student" in line) == names


def test_a_key_states_some_limits_and_the_settings_hold_for_the_rest(tmp_path: Path) -> None:
    file, where = tmp_path / "keys.json", {"GATEWAY_KEYS_FILE": str(tmp_path / "keys.json")}
    assert command(tmp_path, "keys", "add", "anna", "--concurrent", "8", **where, GATEWAY_LIMITS__BURST="9").stdout
    assert json.loads(file.read_text())["keys"]["anna"]["limits"] == {"concurrent": 8}
    for burst in ("9", "11"):  # the settings change, and the file doesn't
        listed = command(tmp_path, "keys", "list", **where, GATEWAY_LIMITS__BURST=burst).stdout
        assert f'"burst":{burst},"concurrent":8' in listed


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["keys", "list"], {}, "GATEWAY_KEYS_FILE=keys.json"),
        (
            ["keys", "add", "x", "--burst", "0"],
            {"GATEWAY_KEYS_FILE": "k.json"},
            "burst: Input should be greater than 0",
        ),
        ([], {"GATEWAY_WORKERS": "4", "GATEWAY_ENGINES": '{"a": {"url": "http://x", "seats": 3}}'}, "4 workers need"),
        (
            [],
            {"GATEWAY_WORKERS": "2", "GATEWAY_ENGINES": '{"a": {"url": "http://x", "reserved": 1}}'},
            "so many reserved seats",
        ),
        ([], {"GATEWAY_WORKERS": "100"}, "100 workers need a burst"),
        ([], {"GATEWAY_CONFIG": "nowhere.toml"}, "there is no file nowhere.toml"),
        ([], {"GATEWAY_KEYS_FILE": "nowhere.json"}, "The keys can't be read"),
        (["start"], {}, "usage: python -m gateway"),
    ],
)
def test_a_wrong_command_is_explained(tmp_path: Path, arguments: list[str], env: dict[str, str], said: str) -> None:
    done = command(tmp_path, *arguments, **env)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def streams(gateway: Gateway, count: int, plan: dict[str, Any], name: str = "x") -> list[httpx.Response]:
    """So many streams at once, each over a connection of its own."""
    fresh = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=gateway.url, trust_env=False, timeout=60, headers=bearer(name), limits=fresh
    ) as client:
        asked = {**HELLO, "stream": True, "truth": plan}
        return await asyncio.gather(*(client.post("/v1/chat/completions", json=asked) for _ in range(count)))


def test_workers_together_keep_the_limits_and_show_all_counters(one: TruthEngine, tmp_path: Path) -> None:
    """Seats, concurrency and counters of two workers sum up to those of one gateway. A killed worker is replaced."""
    keys = write_keys(tmp_path / "keys.json", {"wide": {}, "narrow": {"limits": {"concurrent": 4, "burst": 100}}})
    with running(tmp_path, {"one": one.url}, seats=6, workers=2, keys_file=str(keys), **MANY) as gateway:
        assert eventually(lambda: gateway.count("engine_seats") == 6), "the second worker has started, too"
        most = 0.0

        async def watch() -> None:
            nonlocal most
            async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as client:
                while True:
                    page = (await client.get("/metrics", headers=bearer("wide"))).text
                    most = max(
                        most, float(re.findall(r'^gateway:num_requests_running{engine="one"} (\S+)', page, re.M)[0])
                    )

        async def load() -> tuple[list[httpx.Response], list[httpx.Response]]:
            watching = asyncio.create_task(watch())
            wide = await streams(gateway, 24, {"gap_s": 0.05, "tokens": 10}, "wide")
            narrow = await streams(gateway, 12, {"gap_s": 0.2, "tokens": 10}, "narrow")
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching  # raises what has ended it, if anything has
            return wide, narrow

        wide, narrow = asyncio.run(load())
        assert [answer.status_code for answer in wide] == [200] * 24
        assert 1 <= [answer.status_code for answer in narrow].count(200) <= 4
        assert 0 < most <= 6
        served = 24 + [answer.status_code for answer in narrow].count(200)
        # One worker may answer while the other, which has sent its last bytes, does not have the processor.
        assert eventually(lambda: gateway.count("num_requests_running") == 0)
        for _ in range(4):  # whichever worker answers
            assert gateway.count("generation_tokens_total") == 10 * served
            assert gateway.count("engine_seats") == 6
            assert gateway.count("num_requests_running") == 0
        both = workers(gateway)
        assert len(both) == 2
        os.kill(min(both), signal.SIGKILL)
        assert eventually(lambda: len(now := workers(gateway)) == 2 and min(both) not in now)
        assert eventually(lambda: gateway.count("engine_seats") == 6)
        assert {answer.status_code for answer in asyncio.run(streams(gateway, 12, {"tokens": 3}, "wide"))} == {200}
        assert gateway.count("generation_tokens_total") == 10 * served + 36, "what the killed one had counted stays"


def test_counters_are_read_while_a_worker_makes_its_file(one: TruthEngine, tmp_path: Path) -> None:
    """For a moment such a file is empty."""
    with running(tmp_path, {"one": one.url}, workers=2) as gateway:
        file = Path(psutil.Process(min(workers(gateway))).environ()["PROMETHEUS_MULTIPROC_DIR"]) / "counter_999999.db"

        def is_read() -> bool:
            file.write_bytes(b"")
            made = threading.Timer(0.05, lambda: file.write_bytes(bytes(64)))
            made.start()
            status = gateway.client.get("/metrics").status_code
            made.join()
            return status == 200

        # The gateway waits for 0.2 s, and a busy machine may hold the timer up for longer.
        assert any(is_read() for _ in range(3))


def test_a_gateway_accepts_once_it_knows_its_engines(tmp_path: Path) -> None:
    """Else a worker that replaces another one would refuse its first clients."""
    with (
        naming_models(after_s=0.5) as engine,
        running(tmp_path, {"one": f"http://127.0.0.1:{engine.server_port}"}, ready=False) as gateway,
    ):
        assert eventually(gateway.logged)
        assert [line["status"] for line in gateway.logged()] == [200]


def test_workers_that_are_restarted_count_their_seats_once(one: TruthEngine, tmp_path: Path) -> None:
    """SIGHUP replaces the workers, one after the other. The old ones hold nothing any more."""
    with running(tmp_path, {"one": one.url}, seats=6, workers=2, **MANY) as gateway:
        before = workers(gateway)
        os.kill(gateway.pid, signal.SIGHUP)
        assert eventually(lambda: len(now := workers(gateway)) == 2 and not now & before, 40)
        assert eventually(lambda: gateway.count("engine_seats") == 6)
        assert gateway.chat().status_code == 200


def test_a_worker_that_dies_while_it_is_asked_whether_it_lives_is_replaced_at_once(
    one: TruthEngine, tmp_path: Path
) -> None:
    """Not after the 30 s that the answer may take."""
    with running(tmp_path, {"one": one.url}, workers=2) as gateway:
        dying = min(workers(gateway))
        os.kill(dying, signal.SIGSTOP)
        time.sleep(1.5)  # it is asked every half a second
        os.kill(dying, signal.SIGKILL)
        assert eventually(lambda: len(now := workers(gateway)) == 2 and dying not in now)


def test_a_log_that_cant_be_written_costs_no_answer_and_no_connection(tmp_path: Path) -> None:
    port = free_port()
    env = {"PYTHONPATH": str(TREE), "PATH": "/usr/bin", "GATEWAY_PORT": str(port)}
    with open("/dev/full", "wb") as full:
        gateway = subprocess.Popen(
            [sys.executable, "-m", "gateway"], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=full
        )
    try:
        assert eventually(lambda: port_taken(port), 60)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.connect()
        first = connection.sock
        for _ in range(3):
            connection.request("GET", "/health")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"status":"ok"}')
            assert connection.sock is first, "the connection stays open"
    finally:
        gateway.terminate()
        gateway.wait(20)


def test_workers_let_their_streams_end(one: TruthEngine, tmp_path: Path) -> None:
    with running(tmp_path, {"one": one.url}, seats=32, workers=2) as gateway:

        async def load() -> list[httpx.Response]:
            asked = asyncio.create_task(streams(gateway, 12, {"tokens": 120, "gap_s": 0.05}))
            while gateway.count("num_requests_running") < 12:
                assert not asked.done()
                await asyncio.sleep(0.05)
            gateway.terminate()
            return await asked

        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in asyncio.run(load()))
        assert eventually(lambda: gateway.process.exit_code() is not None)


def test_a_second_of_drain_ends_longer_streams(one: TruthEngine, tmp_path: Path) -> None:
    with running(tmp_path, {"one": one.url}, drain_s=1) as gateway:

        async def load() -> Any:
            asked = asyncio.create_task(streams(gateway, 1, {"tokens": 200, "gap_s": 0.1}))
            while not gateway.count("num_requests_running"):
                await asyncio.sleep(0.05)
            gateway.terminate()
            with pytest.raises(httpx.RemoteProtocolError):
                await asked

        asyncio.run(load())
        assert eventually(lambda: gateway.process.exit_code() is not None)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_gateway_leaves_no_file_behind(one: TruthEngine, tmp_path: Path, workers: int) -> None:
    """A watchdog would remove what is left, so there is none here."""
    config, port, left = tmp_path / "gateway.toml", free_port(), tmp_path / "tmp"
    config.write_text(f'port = {port}\nworkers = {workers}\n[engines.one]\nurl = "{one.url}"\nseats = 2\n')
    left.mkdir()
    env = {"GATEWAY_CONFIG": str(config), "PYTHONPATH": str(TREE), "PATH": "/usr/bin", "TMPDIR": str(left)}
    gateway = subprocess.Popen([sys.executable, "-m", "gateway"], env=env, stdout=subprocess.DEVNULL)
    try:
        answers = httpx.Client(transport=httpx.HTTPTransport(retries=10), base_url=f"http://127.0.0.1:{port}")
        assert answers.get("/health", timeout=30).status_code == 200
        gateway.terminate()
        assert gateway.wait(30) in (0, -signal.SIGTERM)
    finally:
        gateway.kill()
    assert list(left.iterdir()) == []


def test_reserved_seats_are_for_paid_keys(one: TruthEngine, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"paid": {"priority": "paid"}, "free": {}})
    engine = {"url": one.url, "seats": 3, "reserved": 1}
    with running(tmp_path, {"one": engine}, keys_file=str(keys)) as gateway:

        async def load() -> tuple[list[httpx.Response], list[httpx.Response]]:
            free = asyncio.create_task(streams(gateway, 4, {"tokens": 50, "gap_s": 0.1}, "free"))
            while not gateway.client.get("/metrics").text.count('num_requests_waiting{model_name="truth"} 2.0'):
                assert not free.done()
                await asyncio.sleep(0.05)
            assert gateway.count("num_requests_running") == 2, "the third seat is kept"
            paid = await streams(gateway, 1, {"tokens": 2}, "paid")
            assert gateway.count("num_requests_waiting") == 2, "the paid request waited for none of them"
            return await free, paid

        free, paid = asyncio.run(load())
        assert {answer.status_code for answer in free + paid} == {200}


def test_every_request_has_its_line_of_log_its_id_and_safe_headers(one: TruthEngine, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"anna": {}})
    with running(tmp_path, {"one": one.url}, keys_file=str(keys)) as gateway:
        own = {"x-request-id": "mine-7", **bearer("anna")}
        answer = gateway.client.post("/v1/chat/completions", json={**HELLO, "stream": True}, headers=own)
        assert answer.headers["x-request-id"] == "mine-7"
        bad = gateway.client.get("/nowhere", headers={"x-request-id": 'a"b\\'})
        assert re.fullmatch("[0-9a-f]{32}", bad.headers["x-request-id"])
        for one_answer in (answer, bad):
            assert one_answer.headers["x-content-type-options"] == "nosniff"
            assert one_answer.headers["x-frame-options"] == "DENY"
            assert "default-src 'none'" in one_answer.headers["content-security-policy"]
            assert "server" not in one_answer.headers
        assert eventually(lambda: len([line for line in gateway.logged() if line["path"] != "/ready"]) == 2)
        lines = {line["request_id"]: line for line in gateway.logged()}
        line = lines["mine-7"]
        assert (line["key"], line["engine"], line["status"], line["path"]) == (
            "anna",
            "one",
            200,
            "/v1/chat/completions",
        )
        assert (line["completion_tokens"], line["bytes"]) == (8, len(answer.content))
        assert lines[bad.headers["x-request-id"]]["status"] == 404
        assert "Hello" not in gateway.log.read_text()


def test_prompts_are_logged_only_if_asked_for(one: TruthEngine, tmp_path: Path) -> None:
    with running(tmp_path, {"one": one.url}, log_prompts=True) as gateway:
        gateway.chat()
        assert eventually(lambda: any(line.get("body", {}).get("messages") for line in gateway.logged()))


def faulty(folder: Path) -> Path:
    """A copy of the gateway that fails at every body. Returns the folder to import it from."""
    tree = folder / "tree"
    shutil.copytree(TREE / "gateway", tree / "gateway")
    file = tree / "gateway" / "app.py"
    assert "found = orjson.loads(body)\n" in file.read_text()
    file.write_text(file.read_text().replace("found = orjson.loads(body)\n", "found = orjson.loads(body) + 1\n"))
    return tree


def test_a_fault_of_the_gateways_own_is_an_error_in_openais_form_and_is_logged(
    one: TruthEngine, tmp_path: Path
) -> None:
    with running(tmp_path, {"one": one.url}, tree=faulty(tmp_path)) as gateway:
        answer = gateway.chat()
        assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
        assert answer.json()["error"]["code"] == "internal_error"
        assert eventually(lambda: any(line.get("error", "").startswith("TypeError") for line in gateway.logged()))
        assert "TypeError" in gateway.log.read_text().partition("Traceback")[2]


def test_a_whole_answer_that_tells_of_a_fault_leaves_the_connection_open(one: TruthEngine, tmp_path: Path) -> None:
    """A client may send its next request over it at once. Closed at that moment, the client would see a reset."""
    with running(tmp_path, {"one": one.url}, tree=faulty(tmp_path)) as gateway:
        connection = http.client.HTTPConnection("127.0.0.1", httpx.URL(gateway.url).port, timeout=10)
        asked = {"content-type": "application/json"}
        for _ in range(2):
            connection.request("POST", "/v1/chat/completions", json.dumps(HELLO), asked)
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("connection")) == (500, None)
            assert json.loads(answer.read())["error"]["code"] == "internal_error"
            time.sleep(0.2)
        connection.close()


def test_other_hosts_and_other_types_are_refused(one: TruthEngine, tmp_path: Path) -> None:
    """A page in a browser on this machine must not use a gateway that has no keys."""
    with running(tmp_path, {"one": one.url}) as gateway:
        rebound = gateway.client.get("/v1/models", headers={"host": "evil.example"})
        assert (rebound.status_code, rebound.json()["error"]["code"]) == (400, "bad_host")
        crossed = gateway.client.post(
            "/v1/chat/completions", content=json.dumps(HELLO), headers={"content-type": "text/plain"}
        )
        assert (crossed.status_code, crossed.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_counters_are_for_this_machine_and_for_keys(one: TruthEngine, tmp_path: Path) -> None:
    """Behind a proxy on this machine, the client is the one that X-Forwarded-For names."""
    keys = write_keys(tmp_path / "keys.json", {"anna": {}})
    with running(tmp_path, {"one": one.url}, keys_file=str(keys)) as gateway:
        for path in ("/metrics", "/dashboard"):
            far = {"x-forwarded-for": "203.0.113.9"}
            assert gateway.client.get(path).status_code == 200
            assert gateway.client.get(path, headers=far).status_code == 401
            assert gateway.client.get(path, headers={**far, **bearer("anna")}).status_code == 200


def test_goodput_counts_tokens_within_the_slo(one: TruthEngine, tmp_path: Path) -> None:
    with running(tmp_path, {"one": one.url}, slo_first_token_s=5, slo_between_tokens_s=0.25) as gateway:
        assert gateway.chat(stream=True, truth={"gap_s": 0.01}).status_code == 200
        assert gateway.count("generation_tokens_within_slo_total") == 8
        assert gateway.chat(stream=True, truth={"gap_s": 1, "tokens": 4}).status_code == 200
        assert gateway.count("generation_tokens_within_slo_total") == 8, "too slow from token to token"
        assert gateway.chat(stream=False, truth={"gap_s": 0.01}).status_code == 200
        assert gateway.count("generation_tokens_total") == 20
        assert gateway.count("prefix_cache_queries_total") == 3 * gateway.count("prompt_tokens_total") / 3
        assert gateway.count("prefix_cache_hits_total") == 9

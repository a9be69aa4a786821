"""Prometheus really scrapes: each query of the dashboard, asked over its HTTP API, is answered with data.

A gateway stands in front of llama.cpp, of a truth server that fails when it is asked to, and of an engine that is down.
vLLM starts too slowly for every run, so `make test` scrapes a page that it wrote, and `make drill` scrapes vLLM itself.
"""

import asyncio
import contextlib
import http.server
import json
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from environment import compose, debian_programs
from shared import paths
from shared.engines import ENGINES
from shared.launch import launch
from shared.launch.process import Guarded
from shared.models import ModelChoice
from shared.processes import free_port
from tests.helpers.gateway import Gateway, running
from tests.helpers.processes import eventually
from tests.helpers.truth import TruthEngine

pytestmark = pytest.mark.programs

FOLDER = paths.REPO / "environment" / "monitoring"
CONFIG = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
DASHBOARD = json.loads((FOLDER / "grafana" / "dashboards" / "gateway.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SOURCES = next(v for v in DASHBOARD["templating"]["list"] if v["name"] == "source")["query"].split(",")
RECORDED = Path(__file__).with_name("vllm_metrics.txt").read_text()
WINDOW = "5m"  # what Grafana puts in for $__rate_interval: here longer than the test


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=20, trust_env=False)

    def get(self, path: str, **asked: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=asked).json()
        assert answer["status"] == "success", (asked, answer)
        return answer["data"]

    def values(self, query: str) -> list[float]:
        """The values of the series that answer this query now, NaN left out (a share of nothing)."""
        found = [float(one["value"][1]) for one in self.get("query", query=query)["result"]]
        return [value for value in found if not math.isnan(value)]

    def scraped(self, job: str) -> bool:
        return self.values(f'up{{job="{job}"}}') == [1]


@contextlib.contextmanager
def prometheus(folder: Path, **targets: str) -> Iterator[Prometheus]:
    """Prometheus with our configuration, quicker, and with these targets for its jobs."""
    port, folder = free_port(), folder / "prometheus"
    folder.mkdir()
    config = {**CONFIG, "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"}}
    jobs = [one for one in CONFIG["scrape_configs"] if one["job_name"] in targets]
    config["scrape_configs"] = [{**one, "static_configs": [{"targets": [targets[one["job_name"]]]}]} for one in jobs]
    config["rule_files"] = [str(FOLDER / file) for file in CONFIG["rule_files"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    options = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder}/data", "--log.level=warn"]
    command = [str(debian_programs.ensure("prometheus")), f"--config.file={folder}/prometheus.yml", *options]
    with (folder / "log").open("wb") as log:
        process = Guarded(command, log, cwd=folder)
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")

        def ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return server.client.get("/-/ready").status_code == 200
            return False

        assert eventually(ready, 30), (folder / "log").read_text()
        yield server
    finally:
        process.end()


@contextlib.contextmanager
def recorded_vllm() -> Iterator[str]:
    """The address of vLLM's recorded page. It counts from 0 until it has been read twice."""
    pages = iter([re.sub(r"(?m)^(vllm:.*) \S+$", r"\1 0", RECORDED)] * 2)

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(next(pages, RECORDED).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def queries(source: str, *others: str) -> list[tuple[str, str]]:
    """Each panel's queries for this source (title, query); not those of engines that aren't there."""
    found = []
    for panel in PANELS:
        for target in panel["targets"]:
            query = target["expr"].replace("${source}", source).replace("$__rate_interval", WINDOW)
            if set(re.findall(r"\b(gateway|vllm|llamacpp):", query)) <= {source, *others}:
                found.append((f"{panel['title']}, {target['legendFormat']}", query))
    return found


def unanswered(server: Prometheus, asked: list[tuple[str, str]], limit_s: float = 20) -> list[str]:
    """The queries that still find no data when the limit is over: on a busy machine a scrape may come late."""
    left = list(asked)

    def all_answered() -> bool:
        left[:] = [one for one in left if not server.values(one[1])]
        return not left

    eventually(all_answered, limit_s)
    return [f"{title}: {query}" for title, query in left]


def holds(server: Prometheus, query: str, value: float) -> bool:
    """Whether it comes to hold this one value. After a scrape that came too late it holds none, until the next."""
    return eventually(lambda: server.values(query) == [value], 20)


async def load(gateway: Gateway, model: str, truth: TruthEngine) -> None:
    """What a busy minute holds: streams, a shared beginning of prompts, refusals, a failure, a client that leaves."""
    system = {"role": "system", "content": "You answer in one short sentence. " * 8}

    async def ask(client: httpx.AsyncClient, number: int, **more: Any) -> int:
        question = {"role": "user", "content": f"What is {number} plus {number}?"}
        body = {"model": model, "messages": [system, question], "max_tokens": 8, "stream": True, **more}
        answer = await client.post("/v1/chat/completions", json=body)
        return answer.status_code

    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=60) as client:
        statuses = [*await asyncio.gather(*(ask(client, i) for i in range(16)))]
        statuses += [await ask(client, 99, truth={"fault": "500", "port": truth.port})]
        assert {200, 429} == set(statuses), statuses
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await ask(client, 7, max_tokens=200, truth={"gap_s": 0.1})
        assert {await ask(client, i) for i in range(4)} == {200}


@pytest.fixture(scope="module")
def scraped(model: ModelChoice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Gateway]]:
    """A Prometheus after a load, and its gateway."""
    folder = tmp_path_factory.mktemp("monitoring")
    limits = {"limits": {"concurrent": 6, "requests_per_minute": 10**6, "burst": 10**6}}
    with contextlib.ExitStack() as stack:
        truth = stack.enter_context(TruthEngine.start(folder / "truth.log"))
        engine = stack.enter_context(launch("llamacpp", model, {"-np": 4, "-c": 4 * 2048}, cores=1, quiet=True))
        engines = {
            "fails": {"url": truth.url, "models": [model.name], "seats": 1},
            "llamacpp": {"url": engine.url, "seats": 2},
            "down": f"http://127.0.0.1:{free_port()}",
        }
        gateway = stack.enter_context(running(folder, engines, **limits))
        vllm = stack.enter_context(recorded_vllm())
        targets = {"gateway": gateway.url.removeprefix("http://"), "engines": engine.url.removeprefix("http://")}
        server = stack.enter_context(prometheus(folder, **targets, **{"tensorrt-llm": vllm}))
        assert eventually(lambda: server.scraped("gateway") and server.scraped("engines"), 20)
        assert eventually(lambda: "llamacpp" in gateway.client.get("/ready").json()["engines"], 20)
        asyncio.run(load(gateway, model.name, truth))
        asked = "sum(gateway:requests_total) + sum(gateway:e2e_request_latency_seconds_count)"
        counted = gateway.count("requests_total") + gateway.count("e2e_request_latency_seconds_count")
        assert eventually(lambda: server.values(asked) == [counted], 20), "the last counts are scraped"
        yield server, gateway


@pytest.mark.parametrize("source", SOURCES)
def test_every_query_of_the_dashboard_is_answered_with_data(scraped: tuple[Prometheus, Gateway], source: str) -> None:
    asked = queries(source, "gateway", "vllm", "llamacpp")
    assert len(asked) == sum(len(panel["targets"]) for panel in PANELS)
    assert unanswered(scraped[0], asked) == []


def test_prometheus_holds_what_the_gateway_counted(scraped: tuple[Prometheus, Gateway]) -> None:
    server, gateway = scraped
    for name in (
        "generation_tokens_total",
        "prompt_tokens_total",
        "requests_total",
        "inter_token_latency_seconds_count",
    ):
        counted = gateway.count(name)
        assert counted > 0, name
        assert holds(server, f"sum(gateway:{name})", counted), name
    assert holds(server, 'gateway:engine_up{engine="down"}', 0)
    assert holds(server, 'sum(gateway:requests_retried_total{engine="fails"})', 1)


def test_the_rules_are_evaluated_without_an_error(scraped: tuple[Prometheus, Gateway]) -> None:
    (group,) = scraped[0].get("rules")["groups"]
    assert [(rule["name"], rule["health"]) for rule in group["rules"] if rule["health"] != "ok"] == []
    pending = {alert["labels"]["engine"] for alert in scraped[0].get("alerts")["alerts"] if "engine" in alert["labels"]}
    assert pending == {"down"}, "EngineDown waits for its minute, for this engine only"


def test_a_query_without_data_is_noticed(scraped: tuple[Prometheus, Gateway]) -> None:
    wrong = [("a typing error", "gateway:num_request_running"), ("a share of nothing", "vector(0) / vector(0)")]
    assert len(unanswered(scraped[0], wrong, limit_s=0)) == 2


@pytest.mark.drill
def test_the_dashboard_shows_vllm_itself(model: ModelChoice, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(launch("vllm", model, {"--max-num-seqs": 4, "--max-model-len": 2048}, quiet=True))
        server = stack.enter_context(prometheus(tmp_path, engines=engine.url.removeprefix("http://")))
        gateway = stack.enter_context(running(tmp_path, {"vllm": engine.url}))
        assert eventually(lambda: server.scraped("engines"), 20)
        for number in range(4):
            question = [{"role": "user", "content": f"Count to ten. {number}"}]
            assert gateway.chat(model=model.name, messages=question, max_tokens=16).status_code == 200
        asked = queries("vllm")
        assert len(asked) > 12
        assert unanswered(server, asked) == []


def test_each_panel_has_what_a_reader_needs() -> None:
    for panel in PANELS:
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)


def test_prometheus_reads_the_ports_that_compose_publishes() -> None:
    services = yaml.safe_load(compose.FILE.read_text())["services"]
    published = {services[name]["ports"][0].rpartition(":")[0] for name in ENGINES if not ENGINES[name].metrics_of}
    targets = {one for job in CONFIG["scrape_configs"] for two in job["static_configs"] for one in two["targets"]}
    assert targets == published | {"127.0.0.1:9000"}

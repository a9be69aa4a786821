"""Puts a stack on the machine, runs its load, and returns what was seen: figures, counters, logs.

    figures, raw = observe(healthy("llamacpp", model))
    figures, raw = observe(FAULTS[CACHE].inject(stack, figures))    # the same load, with a fault

The gateway is the reference solution, so that its counters are right however far the student's own gateway is.
"""

import contextlib
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from shared import paths
from shared.course.gateway import running
from shared.course.gateway.running import Gateway
from shared.course.gateway.seven_faults.stack import LOGPROBS, READ_TOKENS, SEATS, USUAL, Figures, Stack
from shared.engines.http import counters, get
from shared.errors import LabError
from shared.launch.launcher import alone, launch
from shared.launch.running import Engine
from shared.load import loops
from shared.load.loads import Load
from shared.metrics.summary import Summary, summarise
from shared.processes import descendants, free_port
from shared.report import live_panel

SAMPLE_S = 0.1
PATIENCE_S = 120  # for the slow readers to take their seats
COUNTERS = {
    **running.COUNTERS,
    "send_wait_s": "gateway:send_wait_seconds_total",
    "first_token_s": "gateway:time_to_first_token_seconds_sum",
    "first_tokens": "gateway:time_to_first_token_seconds_count",
}

_kept: dict[str, Gateway] = {}  # the gateway that runs, for the next stack with the same settings


def observe(stack: Stack) -> tuple[Figures, dict[str, Any]]:
    """Start what of the stack doesn't run yet, run its load, and return the figures and the raw evidence.

    The raw evidence: samples of both /metrics during the load, their text before and after it, and what both logs
    gained. Raises LabError if the engine or the gateway doesn't start, or if no request succeeds.
    """
    engine = launch(stack.engine, stack.prompts.model, stack.flags, cores=stack.cores, quiet=True)
    gateway = _gateway(stack, engine)
    samples: list[dict[str, float]] = []
    with alone(engine), _readers(stack, engine, gateway):
        logged = [len(one.log_text()) for one in (engine, gateway)]
        before, pages = _counted(engine, gateway), _pages(engine, gateway)
        threads = _thread_s(engine)
        with live_panel.watch(engine), live_panel.watch(gateway), _sampling(engine, gateway, samples):
            run = loops.run(Load(gateway, stack.prompts, stack.rhythm, stack.max_tokens))
        busy = {thread: spent_s - threads.get(thread, 0.0) for thread, spent_s in _thread_s(engine).items()}
    after = _counted(engine, gateway)
    summary = summarise(run)
    begin, end = min(t.sent_ns for t in run.traces), max(t.end_ns for t in run.traces)
    inside = [sample for sample in samples if begin <= sample["ns"] <= end] or samples
    figures = {
        **_by_counters(inside, before, after),
        **_of_processor(inside, busy),
        **_at_client(summary, sum(busy.values()) if busy else None),
    }
    raw = {
        "samples": [{"s": round((one["ns"] - begin) / 1e9, 3), **one} for one in inside],
        "metrics": {"before": pages, "after": _pages(engine, gateway)},
        "logs": {one.spec.title: one.log_text()[at:] for one, at in zip((engine, gateway), logged, strict=True)},
    }
    return {name: round(value, 4) for name, value in figures.items()}, raw


def _gateway(stack: Stack, engine: Engine) -> Gateway:
    """The reference gateway in front of the engine. One that runs with the same settings is taken again."""
    config = f'{stack.gateway}\n[engines.engine]\nurl = "{engine.url}"\nseats = {SEATS}\n'
    there = _kept.get("gateway")
    if there and there.alive and there.made_of["config"] == config and (get(there.port, "/ready") or (0,))[0] == 200:
        return there  # it may not be ready: the engine is paused while another one is measured
    folder, port = Path(tempfile.mkdtemp(prefix="labs-gateway-")), free_port()
    (folder / "gateway.toml").write_text(config)
    env = {"GATEWAY_CONFIG": "gateway.toml", "GATEWAY_PORT": str(port), "PYTHONPATH": str(paths.REPO / "solutions")}
    gateway = running.start(
        "diagnosed", "The gateway", engine, [sys.executable, "-m", "gateway"], port=port, folder=folder, ready="/ready",
        counters=COUNTERS, made_of={"config": config}, env=env,
    )  # fmt: skip
    # Without `cache_prompt: false`: here the prefix cache is part of what is watched.
    gateway.spec = replace(gateway.spec, exact_length={"ignore_eos": True})
    _kept["gateway"] = gateway
    return gateway


@contextlib.contextmanager
def _readers(stack: Stack, engine: Engine, gateway: Gateway) -> Iterator[None]:
    """Clients that ask for a long answer and don't read it, until the block ends.

    The block begins when the engine has computed their answers. Their seats at the gateway are then still taken, or the
    gateway has closed their connections after `idle_s`.
    """
    body = {
        "model": gateway.served_name, "messages": next(iter(stack.prompts)), "max_tokens": READ_TOKENS, "stream": True,
        "logprobs": True, "top_logprobs": LOGPROBS, **gateway.spec.exact_length,
    }  # fmt: skip
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    with contextlib.ExitStack() as sockets:
        for _ in range(stack.readers):
            client = sockets.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # the kernel takes less in advance
            client.connect(("127.0.0.1", gateway.port))
            client.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        if stack.readers:
            _wait_until({"gateway_running": stack.readers}, engine, gateway)
            if stack.gateway == USUAL:
                _wait_until({"gateway_running": stack.readers, "engine_running": 0}, engine, gateway)
            else:
                _wait_until({"gateway_running": 0}, engine, gateway)
        yield
    if stack.readers:  # until the gateway has counted how long it waited for them
        _wait_until({"gateway_running": 0}, engine, gateway)


def _wait_until(state: Mapping[str, float], engine: Engine, gateway: Gateway) -> None:
    """Wait until three readings in a row show this state. Raises LabError after PATIENCE_S.

    A counter that could not be read, since an engine at work may not answer in time, shows no state.
    """
    over, in_a_row = time.monotonic() + PATIENCE_S, 0
    while in_a_row < 3:
        now = _counted(engine, gateway)
        in_a_row = in_a_row + 1 if all(now.get(name) == count for name, count in state.items()) else 0
        if time.monotonic() > over:
            raise LabError(
                f"The slow readers did not take or leave their seats within {PATIENCE_S} s.",
                "end other programs that need the processor, and run the cell again",
            )
        time.sleep(0.05)


@contextlib.contextmanager
def _sampling(engine: Engine, gateway: Gateway, samples: list[dict[str, float]]) -> Iterator[None]:
    """Read the counters of both, and the engine's CPU time, again and again while the block runs."""
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            spent_s = sum(_thread_s(engine).values())
            samples.append({"ns": time.perf_counter_ns(), "engine_cpu_s": spent_s, **_counted(engine, gateway)})

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _counted(engine: Engine, gateway: Gateway) -> dict[str, float]:
    """The counters of both, such as gateway_running and engine_running."""
    both = {"gateway": counters(gateway), "engine": counters(engine)}
    return {f"{whose}_{name}": value for whose, found in both.items() for name, value in found.items()}


def _pages(engine: Engine, gateway: Gateway) -> dict[str, str]:
    """The text of both /metrics."""
    return {one.spec.title: (get(one.port, one.spec.metrics) or (0, ""))[1] for one in (engine, gateway)}


def _thread_s(one: Engine) -> dict[int, float]:
    """CPU seconds of each thread of the engine or gateway, by its id. Empty for a container, which can't be read."""
    spent: dict[int, float] = {}
    for pid in () if one.container else descendants(one.process.pid):
        with contextlib.suppress(psutil.Error):
            spent |= {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(pid).threads()}
    return spent


def _by_counters(inside: list[dict[str, float]], before: Figures, after: Figures) -> Figures:
    def course(name: str) -> list[float]:
        return [sample.get(name, 0.0) for sample in inside]

    def grown(name: str) -> float:  # the gateway reports a counter with labels only once it has counted something
        return after.get(name, 0.0) - before.get(name, 0.0)

    means = ("gateway_running", "gateway_waiting", "engine_waiting")
    figures = {name: statistics.fmean(course(name)) for name in means}
    figures["engine_running"] = max(course("engine_running"))
    at_work = [
        running + waiting for running, waiting in zip(course("engine_running"), course("engine_waiting"), strict=True)
    ]
    figures["idle_seats"] = max(0.0, figures["gateway_running"] - statistics.fmean(at_work))
    figures["hit_share"] = grown("gateway_cached_tokens") / max(1.0, grown("gateway_cache_queries"))
    figures["gateway_ttft_ms"] = 1e3 * grown("gateway_first_token_s") / max(1.0, grown("gateway_first_tokens"))
    figures["send_wait_s"], figures["refused"] = grown("gateway_send_wait_s"), grown("gateway_refused")
    if "engine_preemptions" in after:
        figures["preemptions"], figures["kv_use"] = grown("engine_preemptions"), max(course("engine_kv_use"))
    return figures


def _of_processor(inside: list[dict[str, float]], busy: Mapping[int, float]) -> Figures:
    """Cores that the engine used on average, and how many of its threads computed. Empty for a container."""
    if not busy:
        return {}
    took_s = (inside[-1]["ns"] - inside[0]["ns"]) / 1e9
    used_s = inside[-1]["engine_cpu_s"] - inside[0]["engine_cpu_s"]
    computing = sum(spent_s > 0.3 * max(busy.values()) for spent_s in busy.values())
    return {"engine_cpu": used_s / took_s if took_s else 0.0, "busy_threads": computing}


def _at_client(summary: Summary, engine_cpu_s: float | None) -> Figures:
    """What the client measured. `engine_cpu_s`: of the engine meanwhile; None for a container, which can't be read."""
    sent = sorted(trace.sent_ns for trace in summary.run.traces)
    figures = {}
    if engine_cpu_s is not None:  # the load counted it as another program's: it knows the gateway only
        others = (summary.others_cpu_share or 0.0) * (os.cpu_count() or 1) - engine_cpu_s / summary.wall_s
        figures["others_cpu"] = max(0.0, others)
    return {
        **figures,
        "sent_per_s": (len(sent) - 1) / ((sent[-1] - sent[0]) / 1e9),
        "failed": summary.failed,
        "client_lag_ms": (summary.client_lag_ms or {}).get("max", 0.0),
        "client_cpu": summary.client_cpu_share,
        "ttft_ms": summary.ttft_ms.median if summary.ttft_ms else 0.0,
        "itl_ms": summary.itl_ms.median if summary.itl_ms else 0.0,
        "tok_s": summary.output_tok_s,
    }

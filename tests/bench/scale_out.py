"""Ray Serve LLM with one and two replicas, the gateway before it, and the gateway before two plain vLLM servers.

    make scale-out-bench                      # three rounds of 15 minutes each
    make scale-out-bench ARGS="--rounds 1"
    make scale-out-bench ARGS=--quick         # fewer users, one round
    make scale-out-bench ARGS=--show          # print the kept table again

Each system takes a minute or more to start and does not fit into memory beside the others. So a round starts one group
of systems after the other, and the next round takes them in the opposite order, because machines drift. Systems that
run at the same time are asked in turns. In each round one replica is killed while requests arrive at a fixed rate, so
that a failure can't change how many are sent.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from environment.scale_out.ray_serve import cluster
from shared import LabError, models, paths
from shared.errors import command
from shared.hardware import detect
from shared.load import Closed, Load, Poisson, Run, Trace, prompts, run, users_text
from shared.metrics import summarise
from shared.results import provenance, scale_out
from shared.results.scale_out import Benchmark
from tests.bench import scale_out_table as shown
from tests.bench.scale_out_systems import GROUPS, System


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int = 3
    users: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    least_requests: int = 6  # of each load
    waves: int = 2  # requests of each user
    tokens: int = 64  # of each answer
    kill_rate_per_s: float = 2.0  # requests while a replica is killed; one replica alone carries them
    kill_tokens: int = 32
    kill_after_s: float = 10.0
    kill_window_s: float = 120.0
    patience_s: float = 180.0  # after that window, for a new replica to get ready


QUICK = Size(rounds=1, users=(1, 4, 16), least_requests=3, waves=1, tokens=32, kill_tokens=16, kill_window_s=75.0)


class Bench:
    """Everything that was measured so far."""

    def __init__(self, size: Size) -> None:
        self.size, self.model = size, models.small()
        self.columns: dict[str, dict[str, list[float]]] = {}
        self.notes: list[str] = []
        self.engines: dict[str, dict[str, Any]] = {}

    def add(self, system: System, key: str, value: float) -> None:
        self.columns.setdefault(system.name, {}).setdefault(key, []).append(round(value, 4))

    def throughput(self, systems: Sequence[System]) -> None:
        """The closed loads on systems that run at the same time, in turns."""
        size, failed = self.size, dict.fromkeys((system.name for system in systems), 0)
        together: dict[str, list[float]] = {system.name: [] for system in systems}
        for system in systems:  # the first request of a replica takes seconds, and each one needs a first request
            run(Load(system.engine, prompts.short(self.model), Closed(8, 16), max_tokens=4, warmup=False))
        for users in size.users:
            rhythm = Closed(users=users, requests=max(size.least_requests, size.waves * users))
            for system in systems:
                done = run(Load(system.engine, prompts.short(self.model), rhythm, max_tokens=size.tokens))
                found = summarise(done)
                self.add(system, f"tok_s/{users}", found.output_tok_s)
                if found.ttft_ms:
                    self.add(system, f"ttft_ms/{users}", found.ttft_ms.median)
                failed[system.name] += found.failed
                together[system.name] += tokens_per_block(done.traces)
                if found.disturbed and system.parts == [system.engine]:  # else its own parts count as others
                    self.notes.append(f"{system.title}, {users_text(users)}: {found.disturbed}")
                if found.first_error:
                    what = f"{found.failed} requests failed, the first with {found.first_error}"
                    self.notes.append(f"{system.title}, {users_text(users)}: {what}")
        for system in systems:
            self.add(system, "failed", failed[system.name])
            self.add(system, "tokens_per_block", statistics.mean(together[system.name] or [0.0]))
            self.add(system, "startup_s", system.startup_s)
            self.add(system, "memory_gib", system.memory_gib())
            self.engines[system.name] = system.engine.provenance()

    def failover(self, system: System) -> None:
        """Kill a replica while requests arrive, and count what it costs."""
        assert system.kill
        size, killed_s = self.size, list[float]()

        def kill() -> None:
            at_s = time.time()
            system.kill()  # type: ignore[misc]
            killed_s.append(at_s)

        timer = threading.Timer(size.kill_after_s, kill)
        timer.start()
        try:
            rhythm = Poisson(size.kill_rate_per_s, seconds=size.kill_window_s, even=True)
            load = Load(system.engine, prompts.short(self.model), rhythm, max_tokens=size.kill_tokens, warmup=False)
            done = run(load)
        finally:
            timer.cancel()
            timer.join()
        if not killed_s:
            raise LabError(f"No replica of {system.title} was killed: the load ended before.", "run it again")
        failed = [trace for trace in done.traces if trace.error]
        self.add(system, "kill_requests", len(done.traces))
        self.add(system, "kill_failed", len(failed))
        self.add(system, "kill_gap_s", longest_gap_s(done))
        if failed:
            self.notes.append(f"{system.title}, a replica killed: first failure {failed[0].error}")
        if (back_s := self.back_s(system, killed_s[0])) is None:
            self.notes.append(f"{system.title}: no new replica answered within {size.patience_s:.0f} s of the load")
        else:
            self.add(system, "kill_recovery_s", back_s - killed_s[0])

    def back_s(self, system: System, killed_s: float) -> float | None:
        """When a new replica had first answered. If it hasn't yet, short requests are sent until it has."""
        end = time.monotonic() + self.size.patience_s
        while (found := system.revived_s(killed_s)) is None and time.monotonic() < end:
            run(Load(system.engine, prompts.short(self.model), Closed(2, 4), max_tokens=4, warmup=False))
            time.sleep(1)
        return found


def tokens_per_block(traces: Sequence[Trace]) -> list[float]:
    """Of each whole answer, how many tokens a block of bytes with text brought on average."""
    return [
        trace.output_tokens / len(set(trace.chunks_ns))
        for trace in traces
        if not trace.error and trace.output_tokens and trace.chunks_ns
    ]


def longest_gap_s(done: Run) -> float:
    """The longest time in which no answer ended, from the first request sent to the last end."""
    ends = sorted(trace.end_ns for trace in done.traces if not trace.error)
    moments = [min(trace.sent_ns for trace in done.traces), *ends]
    return max(later - earlier for earlier, later in itertools.pairwise(moments)) / 1e9


def measure(size: Size) -> Bench:
    """All rounds. A system that fails is noted, and its cells stay empty. Raises LabError if all of them fail."""
    bench = Bench(size)
    for number in range(size.rounds):
        for group in GROUPS if number % 2 == 0 else GROUPS[::-1]:
            try:
                with group() as systems:
                    titles = " and ".join(system.title for system in systems)
                    print(f"round {number + 1} of {size.rounds}: {titles} ...", file=sys.stderr, flush=True)
                    bench.throughput(systems)
                    for system in systems:
                        if system.kill:
                            bench.failover(system)
            except LabError as e:  # the other systems are measured all the same
                bench.notes.append(f"round {number + 1}: {e}")
    if not bench.columns:
        raise LabError("No system could be measured:\n" + "\n".join(bench.notes), "correct the first of these errors")
    return bench


def show(found: Benchmark) -> None:
    print(shown.table(found.columns, found.users).markdown())
    print("\n" + shown.SHOWS)
    print(*(f"- {note}" for note in found.notes), sep="\n")


@command
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="make scale-out-bench")
    parser.add_argument("--quick", action="store_true", help="fewer users and one round, to see that everything runs")
    parser.add_argument("--rounds", type=int, choices=range(1, 10), metavar="1..9", help="3 without it, 1 with --quick")
    parser.add_argument("--show", action="store_true", help="print the kept table again, and measure nothing")
    given = parser.parse_args(arguments)
    if given.show:
        return show(scale_out.read(scale_out.file()))
    size = QUICK if given.quick else Size()
    size = replace(size, rounds=given.rounds or size.rounds)
    machine, versions = detect(), cluster.installed()
    began = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr):  # progress lines, which don't belong to the table
        bench = measure(size)
    print(f"{machine.processor}, {machine.cores} cores. Ray {versions['version']}, vLLM {versions['vllm']}.")
    rounds = "1 round" if size.rounds == 1 else f"{size.rounds} rounds, median (range) of them"
    print(f"{rounds}; {time.monotonic() - began:.0f} s in all.\n")
    source = {**provenance.made_here("3.3.2"), "versions": versions, "size": vars(size), "engines": bench.engines}
    found = Benchmark(bench.columns, size.users, bench.notes, source)
    show(found)
    print(f"\nKept in {paths.show(scale_out.keep(found))}")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

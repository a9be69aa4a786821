"""Our gateway beside a naive one, a LiteLLM proxy and vLLM's router: cost, delay, memory, and behaviour under overload.

    make bench-gateway

Each gateway is pinned to one core. The other core has the load generator (shared.load) and the truth server, which
notes when it sends each token, so a delay is the client's stamp less the server's. The same loads run without a gateway
("direct"). What they show is subtracted, and what remains is what the gateway adds. Rounds are interleaved, because
machines drift. Gateways that are not measured at the moment are paused.
"""

import argparse
import contextlib
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared import LabError, paths
from shared.errors import command
from shared.files import exclusive
from shared.hardware import detect
from shared.metrics.spread import Spread
from shared.processes import free_port
from shared.report.table import Table
from tests.bench.client import percentile
from tests.bench.gateway_loads import GAP_S, TTFT_S, Answer, Outcome, Request, Target, arrivals, plain, run, streams
from tests.bench.gateway_servers import GATEWAYS, OURS, Gateway, Running, paused, started
from tests.helpers.truth import TruthEngine


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int = 3
    streams: int = 50
    tokens: int = 150  # of each stream: 3 s
    probes_per_s: int = 45  # short requests, whose first tokens are measured
    probes_s: float = 5.4
    leaves: int = 100
    leaves_rounds: int = 2
    searched: Sequence[int] = range(50, 401, 50)  # streams at once
    idle: int = 1000
    idle_s: float = 6
    starts: int = 3
    overloads: int = 2
    overload_s: float = 5


QUICK = Size(1, 4, 10, 10, 0.5, 5, 1, (4, 8), 20, 1.5, 1, 1, 1)


@dataclass(frozen=True)
class Row:
    """A line of the table, and the goal of our gateway."""

    key: str
    title: str
    goal: float | None = None
    at_least: bool = False

    def verdict(self, values: "Sequence[float] | str") -> str:
        if self.goal is None:
            return ""
        asked = f"{'≥' if self.at_least else '≤'} {self.goal:g}"
        if values == NONE:
            return f"{asked}: NOT MET"
        if not values or isinstance(values, str):
            return asked
        median = statistics.median(values)
        met = median >= self.goal if self.at_least else median <= self.goal
        return f"{asked}: {'met' if met else 'NOT MET'}"


NONE = "no answers in time"  # in place of figures
ROWS = (
    Row("cpu_us", "CPU per streamed token, µs", 60),
    Row("cpu_us_full", "the same with the most streams that it carries"),
    Row("carried", "streams of 50 tokens/s carried by one core", 200, at_least=True),
    Row("ttft_p50", "added TTFT, p50, ms", 2),
    Row("ttft_p99", "added TTFT, p99 of all rounds, ms", 5),
    Row("itl_p99", "added ITL, p99, ms", 2),
    Row("changed", "answers whose bytes were changed, %"),
    Row("rss", "resident memory, MB", 120),
    Row("rss_idle", "resident memory with the idle streams, MB"),
    Row("start", "start, s", 1.5),
    Row("idle", "idle streams held at once", 1000, at_least=True),
    Row("freed_p50", "slot free after the client left, p50, ms"),
    Row("freed_p99", "slot free after the client left, p99 of all rounds, ms", 100),
    Row("refused_p99", "429 at 10 times overload, p99, ms", 20),
    Row("goodput_paid", "goodput of the paying key at 10 times overload, % of it alone", 95, at_least=True),
    Row("goodput_all", "goodput of all keys at 10 times overload, % of it at capacity", 95, at_least=True),
)
LIMITS = ("refused_p99", "goodput_paid", "goodput_all")  # of our gateway only: the others are not set up to limit

Cells = Mapping[str, "Sequence[float] | str"]  # by a row's key: the repeats, or why there are none


def table(columns: Mapping[str, Cells], judged: str) -> Table:
    """Medians with their ranges, one column for each gateway. The goals are those of the column `judged`."""
    rows = []
    for row in ROWS:
        verdict = row.verdict(columns[judged].get(row.key, "")) if judged in columns else ""
        rows.append([row.title, *(cell(column.get(row.key, "")) for column in columns.values()), verdict])
    return Table("", ["", *columns, "goal"], rows)


def cell(values: "Sequence[float] | str") -> str:
    return values if isinstance(values, str) else str(Spread.of(values) or "")


def added(through: Sequence[float], direct: Sequence[float], share: float) -> float:
    """What a gateway adds to this percentile."""
    return percentile(through, share) - percentile(direct, share)


def search(steps: Sequence[int], carries: Callable[[int], bool]) -> int:
    """The largest step that is carried, by halving; 0 if none is."""
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if carries(steps[middle]) else (low, middle)
    return steps[low - 1] if low else 0


def most_at_once(spans: Sequence[tuple[int, int]]) -> int:
    """The largest number of spans (begin, end) that overlap."""
    now = most = 0
    for _, step in sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans]):
        now += step
        most = max(most, now)
    return most


def too_much(outcome: Outcome, original: bytes | None) -> str:
    """Why this load was too much for a target; "" if it was not. Bytes are compared if there is an `original`."""
    count = len(outcome.answers)
    if faults := outcome.faults():
        return f"{len(faults)} of {count} failed, the first with: {faults[0]}"
    if original is not None and (changed := outcome.changed(original)):
        return f"{changed} of {count} have other bytes"
    late_ms = percentile([ms for answer in outcome.answers for ms in answer.delays_ms()], 0.99)
    if late_ms > 1e3 * GAP_S:
        return f"p99 of the tokens' delay is {late_ms:.0f} ms, longer than the time between two tokens"
    gaps_s = [(a.sent_ns[-1] - a.sent_ns[0]) / 1e9 / (len(a.sent_ns) - 1) for a in outcome.answers]
    return "the token source fell behind its schedule" if statistics.median(gaps_s) > 1.02 * GAP_S else ""


def in_time(answer: Answer) -> bool:
    """Whether an answer counts for goodput: whole, first text within 1 s of arrival, then 25 tokens/s."""
    if answer.fault():
        return False
    first_s = (answer.trace.chunks_ns[0] - answer.due_ns) / 1e9
    return first_s <= 1 and (answer.trace.tpot_ms or 0) <= 2e3 * GAP_S


def goodput(outcome: Outcome, key: str = "") -> int:
    """Tokens of the answers that came in time, of one key or of all."""
    return sum(a.request.tokens for a in outcome.answers if a.request.key.startswith(key) and in_time(a))


class Bench:
    """The targets, and what was measured of each. The first target, "direct", has no gateway."""

    def __init__(self, size: Size, targets: dict[str, Target], say: Callable[[str], None]) -> None:
        self.size, self.targets, self.say = size, targets, say
        self.gateways = [name for name, target in targets.items() if target.gateway]
        self.figures: dict[str, dict[str, list[float]]] = {name: {} for name in targets}
        self.firsts: dict[str, list[float]] = {name: [] for name in targets}  # of all rounds, in ms
        self.freed: dict[str, list[float]] = {name: [] for name in targets}
        self.lags: list[float] = []  # p99 of each load, in ms
        self.others: list[float] = []  # how much of a core other programs took during each load
        self.notes: list[str] = []
        self.originals: dict[int, bytes] = {}
        self.direct_carries: dict[int, bool] = {}

    def add(self, name: str, key: str, value: float) -> None:
        self.figures[name].setdefault(key, []).append(value)

    def run(self, name: str, requests: Sequence[Request]) -> Outcome:
        """Run a load while the other gateways are paused."""
        target = self.targets[name]
        with paused([t.gateway for other, t in self.targets.items() if other != name and t.gateway]):
            if target.gateway:
                target.gateway.await_ready()
            outcome = run(target, requests)
            if target.gateway and outcome.faults():
                target.gateway.await_calm()
        self.lags.append(outcome.lag_ms.get("p99", 0.0))
        self.others.append(outcome.samples[-1].shares_since(outcome.samples[0])[-1])
        return outcome

    def note_faults(self, name: str, load: str, outcome: Outcome) -> None:
        if faults := outcome.faults():
            self.notes.append(f"{name}, {load}: {len(faults)} of {len(outcome.answers)} answers failed: {faults[0]}")

    def original(self, tokens: int) -> bytes:
        """The bytes of an answer of this length, straight from the engine."""
        if tokens not in self.originals:
            self.originals[tokens] = plain(self.run("direct", [Request(0, tokens)]).answers[0].body)
        return self.originals[tokens]

    def round(self) -> None:
        """Streams alone, whose cost and ITL are measured, then streams with short requests, whose TTFT is measured."""
        size, firsts, gaps = self.size, dict[str, list[float]](), dict[str, list[float]]()
        probes = [Request(0.4 + i / size.probes_per_s, 2) for i in range(round(size.probes_per_s * size.probes_s))]
        behind = streams(size.streams, round((size.probes_s + 0.4) / GAP_S), 0.3)
        for name in self.targets:
            self.say(f"{name}: {size.streams} streams")
            self.run(name, streams(size.streams, 4, 0.3))  # warm-up
            calm = self.run(name, streams(size.streams, size.tokens, 0.3))
            both = self.run(name, [*behind, *probes])
            for outcome in (calm, both):
                self.note_faults(name, f"{size.streams} streams", outcome)
            gaps[name] = [ms for answer in calm.answers if not answer.fault() for ms in answer.gaps_added_ms()]
            firsts[name] = [a.first_added_ms() for a in both.answers[size.streams :] if not a.fault()]
            self.firsts[name] += firsts[name]
            for key, values, share in (("ttft_p50", firsts, 0.5), ("itl_p99", gaps, 0.99)):
                if values[name]:
                    direct = percentile(values[name], share) if name == "direct" else None
                    self.add(name, key, direct if direct is not None else added(values[name], values["direct"], share))
            if name in self.gateways:
                if calm.tokens:
                    self.add(name, "cpu_us", calm.cpu_us_per_token)
                self.add(name, "rss", max(calm.rss_mb, both.rss_mb))
                if whole := size.streams - len(calm.faults()):
                    self.add(name, "changed", 100 * calm.changed(self.original(size.tokens)) / whole)
                self.say(f"{name}: {calm.cpu_us_per_token:.0f} µs a token; {both.busiest()}")

    def leaves(self, name: str, seed: int) -> None:
        """Clients leave at random moments, before the first token or after it."""
        size, source = self.size, random.Random(seed)
        self.say(f"{name}: {size.leaves} clients leave")
        moments = [source.uniform(0.001, 0.6) for _ in range(size.leaves)]
        outcome = self.run(name, [Request(i * 3 / size.leaves, 500, leave_after_s=s) for i, s in enumerate(moments)])
        arrived = [(a.left_ns, a.record["closed_ns"]) for a in outcome.answers if a.record and a.left_ns]
        freed = [(closed_ns - left_ns) / 1e6 for left_ns, closed_ns in arrived if closed_ns]
        self.freed[name] += freed + [float("inf")] * (len(arrived) - len(freed))
        if freed:
            self.add(name, "freed_p50", percentile(freed, 0.5))
        if len(arrived) > len(freed):
            self.notes.append(
                f"{name}: {len(arrived) - len(freed)} of {len(arrived)} slots were taken 3 s after the end"
            )

    def idle(self, name: str) -> None:
        """Streams with a first token, then nothing for seconds. They begin in the first third, and end all at once."""
        size = self.size
        self.say(f"{name}: {size.idle} idle streams")
        starts = [i * size.idle_s / 3 / size.idle for i in range(size.idle)]
        outcome = self.run(name, [Request(at_s, 2, gap_s=size.idle_s - at_s) for at_s in starts])
        whole = [answer.trace.chunks_ns for answer in outcome.answers if not answer.fault()]
        self.add(name, "idle", most_at_once([(first, last) for first, last in whole]))
        self.add(name, "rss_idle", outcome.rss_mb)
        self.note_faults(name, "idle streams", outcome)

    def capacity(self, name: str) -> None:
        """How many streams this gateway carries, and what the limit is."""
        original = None if any(self.figures[name].get("changed", ())) else self.original(200)
        limit, costs_us = "", dict[int, float]()

        def carries(count: int) -> bool:
            nonlocal limit
            load = streams(count, 200, 0.5)
            outcome = self.run(name, load)
            why, costs_us[count] = too_much(outcome, original), outcome.cpu_us_per_token
            self.say(f"{name}: {count} streams: {why or 'carried'}; {outcome.busiest()}")
            if why:
                limit = f"{name}, {count} streams: {why}; {outcome.busiest()}"
                if count not in self.direct_carries:
                    self.direct_carries[count] = not too_much(self.run("direct", load), None)
                if not self.direct_carries[count]:
                    limit += "; client and token source can't do it without a gateway, either"
            return not why

        carried = search(self.size.searched, carries)
        self.add(name, "carried", carried)
        if carried:
            self.add(name, "cpu_us_full", costs_us[carried])
        self.notes += [limit] if limit else []

    def overload(self, limited: Target, seats: int) -> None:
        """A paying key alone, with a free key that fills the capacity, and with one that sends 10 times as much."""
        self.say("our gateway: 10 times overload")
        seconds, tokens = self.size.overload_s, 50
        capacity_per_s = seats / (TTFT_S + (tokens - 1) * GAP_S)
        paid = arrivals(capacity_per_s / 2, seconds, "paid", tokens, seed=1)
        free = [arrivals(capacity_per_s * times, seconds, "free", tokens, seed=2) for times in (0.5, 9.5)]
        with paused([target.gateway for target in self.targets.values() if target.gateway]):
            alone, full, over = (run(limited, [*paid, *more]) for more in ([], *free))
        refused = [(a.trace.end_ns - a.trace.sent_ns) / 1e6 for a in over.answers if a.status == 429]
        others = [a.fault() for a in over.answers if a.fault() and a.status != 429]
        self.notes += [f"{OURS.title}, overload: {len(others)} answers failed: {others[0]}"] if others else []
        figures = {"goodput_paid": goodput(over, "paid") / max(goodput(alone, "paid"), 1)}
        figures["goodput_all"] = goodput(over) / max(goodput(full), 1)
        for key, share in figures.items():
            self.add(OURS.title, key, 100 * share)
        if refused:
            self.add(OURS.title, "refused_p99", percentile(refused, 0.99))

    def columns(self) -> dict[str, Cells]:
        """What the table shows of each target."""
        found: dict[str, Cells] = {}
        for name, figures in self.figures.items():
            measured = [] if name == "direct" else [row.key for row in ROWS if row.key not in LIMITS]
            cells: dict[str, Sequence[float] | str] = {**dict.fromkeys(measured, NONE), **figures}
            if mine := self.firsts[name]:
                direct = self.firsts["direct"]
                cells["ttft_p99"] = [percentile(direct, 0.99) if name == "direct" else added(mine, direct, 0.99)]
            if self.freed[name]:
                cells["freed_p99"] = [percentile(self.freed[name], 0.99)]
            if name in self.gateways and name != OURS.title:
                cells |= dict.fromkeys(LIMITS, "not limited here")
            found[name] = cells
        return found


@contextlib.contextmanager
def opened(gateway: Gateway, truth: TruthEngine, core: int, **settings: object) -> Iterator[Running]:
    """This gateway in front of this engine; `settings` are for ours. Raises LabError if it doesn't start."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        plan = gateway.plan(port, truth.url, Path(name), **settings)
        with started(plan, port, Path(name), core) as running:
            yield running


def measure(size: Size, chosen: Sequence[Gateway], cores: tuple[int, int]) -> tuple[Bench, dict[str, str]]:
    """Run everything. Returns the figures, and the reason for each gateway that could not be started."""
    began, failed = time.monotonic(), dict[str, str]()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", file=sys.stderr, flush=True)

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def truth(name: str) -> TruthEngine:
            return stack.enter_context(TruthEngine.start(folder / name, cores[1]))  # type: ignore[return-value]

        targets = {"direct": Target(truth("direct"))}
        for gateway in chosen:
            say(f"{gateway.title}: start")
            try:
                engine = truth(gateway.name)
                targets[gateway.title] = Target(engine, stack.enter_context(opened(gateway, engine, cores[0])))
            except LabError as e:
                failed[gateway.title] = str(e)
        bench = Bench(size, targets, say)
        for number in range(size.rounds):
            bench.round()
            for name in bench.gateways if number < size.leaves_rounds else ():
                bench.leaves(name, number)
        for name in bench.gateways:
            if running := targets[name].gateway:
                bench.add(name, "start", running.start_s)
            bench.idle(name)
            bench.capacity(name)
        if OURS.title in targets:
            engine = targets[OURS.title].truth
            for _ in range(size.starts - 1):
                with opened(OURS, engine, cores[0]) as running:
                    bench.add(OURS.title, "start", running.start_s)
            for number in range(size.overloads):
                with opened(OURS, engine, cores[0], seats=40, most_queued=10) as running:
                    bench.overload(Target(engine, running, 10**6 * (number + 1)), 40)
    return bench, failed


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few streams and seconds, to see that everything runs")
    parser.add_argument("--only", default=",".join(g.name for g in GATEWAYS), help="gateways, separated by commas")
    given = parser.parse_args()
    size, chosen, failed = QUICK if given.quick else Size(), [], dict[str, str]()
    for gateway in (g for g in GATEWAYS if g.name in given.only.split(",")):
        try:
            gateway.install()
            chosen.append(gateway)
        except LabError as e:
            failed[gateway.title] = str(e)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise LabError("The benchmark needs one core for a gateway and one for the load, but there is one.")
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # an idle stream takes two in some programs
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    os.sched_setaffinity(0, {cores[1]})
    with exclusive(paths.measuring(), "Another measurement is running on this machine; waiting for it ..."):
        began = time.monotonic()
        bench, not_started = measure(size, chosen, (cores[0], cores[1]))
        took_s = time.monotonic() - began
    failed |= not_started
    columns = bench.columns() | {title: {row.key: "not run" for row in ROWS} for title in failed}
    print(f"{detect().processor}. Core {cores[0]}: one gateway at a time. Core {cores[1]}: client and token source.")
    print(f"Other programs took {statistics.median(bench.others):.0%} of a core (at most {max(bench.others):.0%}).")
    print(f"{size.rounds} rounds, {took_s:.0f} s. Median (range) of the rounds. Goals of {OURS.title}.")
    print(
        f"{size.streams} streams of 50 tokens/s, {size.tokens} tokens each. TTFT: {size.probes_per_s} short requests/s"
    )
    print(f"beside them, {len(bench.firsts['direct'])} in all. Direct: what the client sees without a gateway.")
    print("Naive: the lab's version counts_chunks, the first one that streams and gives its seat back.\n")
    print(table(columns, "" if given.quick else OURS.title).markdown())  # the quick size judges nothing
    print(f"\nThe client's event loop woke up {max(bench.lags):.1f} ms late or less, in 99 of 100 cases of each load.")
    print(*(f"{title}: {reason}" for title, reason in failed.items()), *bench.notes, sep="\n")


if __name__ == "__main__":
    sys.exit(main())

"""Turn "not verified on hardware" into "verified": `make verify-spark`, on a machine with an NVIDIA GPU and Docker.

Each engine's container is started as the labs start it. It must answer questions whose answers are known, agree with
the other engines on the beginning of its greedy text, count its tokens, speculate with an EAGLE-3 head where it can,
and leave nothing behind. Where it has such a head, decoding with and without it is timed, as lab 3.3.4 defines it
(`shared/course/speculation/speedups.py`). A head that loses fails no check. The observations go into a ledger under
environment/verified/, which can be committed. README and the notebooks quote that ledger. It is written after each
engine, so a machine that freezes loses only the results of the engine that froze it.

    make verify-spark                        # every engine
    make verify-spark ARGS="vllm sglang"     # only these
"""

import asyncio
import json
import re
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from environment import compose
from environment.container_flags import FLAGS
from shared import LabError, files, load, models, paths
from shared.course.speculation import speedups
from shared.course.speculation.on_engines.questions import Questions
from shared.course.speculation.speedups import Rounds, Setting
from shared.engines import ENGINES, Draft, http
from shared.hardware import Machine, detect
from shared.launch import containers, launch
from shared.launch.running import Engine
from shared.load import Closed, Load, stream, users_text
from shared.load.prompts import SHORT_QUESTIONS, chat
from shared.metrics.correctness import KNOWN, ask
from shared.metrics.spread import number, ranged
from shared.models import ModelChoice
from shared.processes import port_taken
from shared.report import verified

# Greedy text of correct engines diverges at near-ties, but most agree on its beginning (the first FIRST characters).
OPENINGS = ("Count from one to ten in words.", "Name the seven days of the week.", "Recite the alphabet.")
FIRST = 12
# Drafts are timed in so many rounds of so many answers for each user, each of so many tokens.
DRAFTS, USERS, ROUNDS, ANSWERS, TOKENS = 3, (1, 4), 5, 2, 128
README = paths.REPO / "README.md"


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    ok: bool
    observed: str


@dataclass
class Report:
    """What was observed about one engine."""

    image: str
    digest: str = ""
    startup_s: float | None = None
    flags: Mapping[str, object] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    openings: list[str] = field(default_factory=list)
    drafts: list[dict[str, Any]] = field(default_factory=list)  # EAGLE-3 beside plain decoding, by number of users

    def add(self, name: str, ok: bool, observed: str) -> None:
        self.checks.append(Check(name, ok, observed))
        print(f"  {'ok    ' if ok else 'FAILED'} {name}: {observed}", flush=True)


def verify_engine(name: str, model: ModelChoice, report: Report) -> None:
    """Run all checks of one engine. The caller records exceptions."""
    flags = FLAGS[name]
    report.flags = flags
    with launch(name, model, flags) as engine:
        report.startup_s, report.digest = round(engine.startup_s, 1), engine.version.partition("@")[2]
        report.add("answers", True, f"after {engine.startup_s:.0f} s")
        for question, expected in KNOWN:
            answer = ask(engine, model, question)
            report.add(f"knows: {question}", expected in answer.lower(), answer.strip()[:60])
        report.openings = [ask(engine, model, question, 32) for question in OPENINGS]
        before = http.counters(engine)
        body = {"model": engine.served_name, "messages": chat(model, "What is gravity?"), "max_tokens": 64}
        trace = asyncio.run(stream(engine.url + "/v1/chat/completions", {**body, "temperature": 0}))
        ttft, tpot = (f"{ms:.1f} ms" if ms else "unknown" for ms in (trace.ttft_ms, trace.tpot_ms))
        seen = f"TTFT {ttft}, TPOT {tpot}, {trace.output_tokens} tokens"
        report.add("streams", trace.error is None and bool(trace.output_tokens), trace.error or seen)
        counters(engine, before, trace.output_tokens, report)
        plain = timed(engine, model) if has_head(name, model) else {}
        container, port = engine.container, engine.port
    gone = containers.pid(container) is None and not port_taken(port)
    report.add("stops", gone, "container and port are gone" if gone else f"{container} is still there")
    speculate(name, model, plain, report)


def counters(engine: Engine, before: Mapping[str, float], tokens: int | None, report: Report) -> None:
    """Check that the engine's counter of generated tokens grew by the number of tokens in the answer."""
    if engine.spec.container.cannot.get("Prometheus"):
        return
    time.sleep(2)  # some engines update their counters with a delay
    after = http.counters(engine)
    if "generated_tokens" not in engine.spec.counters:
        report.add("has metrics", bool(http.get(engine.port, engine.spec.metrics)), f"on {engine.spec.metrics}")
        return
    grown = after.get("generated_tokens", 0) - before.get("generated_tokens", 0)
    report.add("counts its tokens", grown == tokens, f"counter +{grown:.0f}, answer {tokens}")


def has_head(name: str, model: ModelChoice) -> bool:
    return f"{name} EAGLE-3" in model.drafts


def speculate(name: str, model: ModelChoice, plain: Mapping[Setting, Rounds], report: Report) -> None:
    """Check one known answer with an EAGLE-3 head, and that the engine's counter of accepted drafts grows.

    Then the head is timed. `plain` holds what was timed without it.
    """
    if not has_head(name, model):
        return
    with launch(name, model, FLAGS[name], draft=Draft("eagle3", DRAFTS)) as engine:
        question, expected = KNOWN[0]
        answer = ask(engine, model, question)
        report.add("speculates: answers", expected in answer.lower(), answer.strip()[:60])
        ask(engine, model, OPENINGS[0], 128)
        if "accepted_draft_tokens" in engine.spec.counters:
            accepted = http.counters(engine).get("accepted_draft_tokens", 0)
            report.add("speculates: drafts accepted", accepted > 0, f"{accepted:.0f} draft tokens")
        drafted = timed(engine, model)
        report.drafts = [compared({**plain, **drafted}, one, model) for one in drafted]
    complete = len(report.drafts) == len(USERS) and all(one["speed_up"] for one in report.drafts)
    texts = "; ".join(as_text(one) for one in report.drafts)
    report.add("speculates: timed", complete, texts or "a request failed in every round")


def timed(engine: Engine, model: ModelChoice) -> dict[Setting, Rounds]:
    """The decode times of this engine, with or without drafts, for each number of users.

    Both get the same questions, in starts of their own, one after the other: a drift of the machine between the starts
    is not averaged out. Rounds with a failed request are left out.
    """
    found: dict[Setting, Rounds] = {}
    kind, k = (engine.draft.kind, engine.draft.tokens) if engine.draft else ("", 0)
    for users in USERS:
        setting = Setting(engine.spec.name, kind, k, "short", users)
        for round_number in range(1, ROUNDS + 1):
            count = users * ANSWERS
            asked = Questions(setting.group, model, SHORT_QUESTIONS, first=(round_number - 1) * count)
            run = load.run(Load(engine, asked, Closed(users, count), TOKENS))
            if one := speedups.round_of(run.traces, run.counted, setting):
                found.setdefault(setting, Rounds(setting)).by_number[round_number] = one
    return found


def compared(found: Mapping[Setting, Rounds], setting: Setting, model: ModelChoice) -> dict[str, Any]:
    """Plain decoding beside the head for so many users, as the ledger holds it. Unknown figures are None or empty."""
    drafted, plain, gain = found[setting], found.get(setting.plain), speedups.speedup(found, setting)
    speed_up = [gain.decoding.median, gain.decoding.low, gain.decoding.high] if gain else []
    return {
        "head": model.drafts[f"{setting.engine} EAGLE-3"].pinned,
        "drafts_a_step": setting.k,
        "users": setting.users,
        "plain_ms_per_token": [round(ms, 3) for ms in plain.decode_ms] if plain else [],
        "drafted_ms_per_token": [round(ms, 3) for ms in drafted.decode_ms],
        "speed_up": [round(one, 3) for one in speed_up],  # the median and the ends of its interval
        "verdict": gain.verdict if gain else "no winner",
        "accepted": drafted.counts.acceptance if drafted.counts else None,
        "tokens_a_step": drafted.tokens_per_step,
    }


def as_text(one: Mapping[str, Any]) -> str:
    """ "1 user: 1.42 (1.38–1.5) times as fast as plain (70 to 49 ms per token, 45 % accepted)"."""
    if not one["speed_up"]:
        return f"{users_text(one['users'])}: no plain decoding to compare with"
    before, after = (number(median(one[name])) for name in ("plain_ms_per_token", "drafted_ms_per_token"))
    accepted = f", {speedups.percent(one['accepted'])} accepted" if one["accepted"] is not None else ""
    gain = f"{ranged(*one['speed_up'])} times as fast as plain"
    return f"{users_text(one['users'])}: {gain} ({before} to {after} ms per token{accepted})"


def compare(reports: Mapping[str, Report]) -> None:
    """Compare greedy texts if there are several engines: most openings must agree with at least half of the others."""
    there = {name: report for name, report in reports.items() if report.openings}
    if len(there) < 2:
        return
    for name, report in there.items():
        same = 0
        for i, own in enumerate(report.openings):
            others = [opening_of(r.openings[i]) for other, r in there.items() if other != name]
            same += sum(text == opening_of(own) for text in others) * 2 >= len(others)
        seen = f"{ENGINES[name].title}: {same} of {len(OPENINGS)} openings, {FIRST} characters"
        report.add("begins as the others do", same * 2 > len(OPENINGS), seen)


def opening_of(text: str) -> str:
    """The first FIRST characters in lower case, without punctuation."""
    return re.sub(r"[\W_]+", " ", text).strip().lower()[:FIRST]


def new_ledger(machine: Machine) -> Path:
    """The file of a run. A ledger of the same day is kept: it may hold other engines."""
    slug = re.sub(r"[^a-z0-9]+", "-", machine.name.lower()).strip("-")
    name = f"{slug}-{time.strftime('%Y-%m-%d')}"
    names = (f"{name}.json", *(f"{name}-{number}.json" for number in range(2, 1000)))
    return next(file for one in names if not (file := verified.LEDGERS / one).exists())


def write(file: Path, machine: Machine, model: ModelChoice, reports: Mapping[str, Report]) -> None:
    """Write the ledger. It contains nothing that names a person or a host."""
    seen = ("name", "profile", "processor", "architecture", "gpu", "driver", "cuda")
    ledger = {
        "schema": verified.SCHEMA,
        "date": time.strftime("%Y-%m-%d"),
        "machine": {key: getattr(machine, key) for key in seen} | {"memory_gib": round(machine.memory_gib or 0, 1)},
        "model": model.origin,
        "engines": {name: asdict(report) for name, report in reports.items()},
    }
    file.parent.mkdir(exist_ok=True)
    files.write(file, (json.dumps(ledger, indent=1, ensure_ascii=False) + "\n").encode())


def say_so() -> None:
    """Update the sentence in README and the head of compose.yaml from the ledgers."""
    old = README.read_text()
    new = re.sub(r"(<!-- verified -->).*(<!-- /verified -->)", rf"\1{verified.banner()}\2", old, flags=re.S)
    if new != old:
        files.write(README, new.encode())
    files.write(compose.FILE, compose.compose().encode())


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in ENGINES]:
        raise LabError(f"There is no engine {unknown[0]!r}.", f"name some of: {', '.join(ENGINES)}")
    machine = detect()
    if machine.runner != "container":
        raise LabError(f"Containers can't be verified here: {machine.why}.", "run `make doctor` to see what is missing")
    model = models.choose(machine)
    print(f"{machine}\n{model.origin}\nThe engines run one after another.\n")
    reports: dict[str, Report] = {}
    file = new_ledger(machine)
    for name in names or list(ENGINES):
        image = containers.images()[ENGINES[name].container.image]
        report = reports[name] = Report(f"{image.image}:{image.tag}")
        print(f"{ENGINES[name].title}, {report.image}", flush=True)
        try:
            verify_engine(name, model, report)
        except LabError as e:
            report.add("ran to the end", False, str(e)[:600])
        except Exception as e:  # such as an answer in an unknown format: recorded, and the next engine starts
            traceback.print_exc()
            report.add("ran to the end", False, f"{type(e).__name__}: {e}"[:600])
        write(file, machine, model, reports)
    compare(reports)
    write(file, machine, model, reports)
    say_so()
    failed = sum(not check.ok for report in reports.values() for check in report.checks)
    print(
        f"\n{failed} check{'s' if failed != 1 else ''} failed. The ledger is {paths.show(file)}. If an engine passed "
        f"all of its checks, commit this file with README.md and compose.yaml.\n{verified.banner()}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as e:
        sys.exit(str(e))
    except KeyboardInterrupt:
        sys.exit(130)

"""Lab 3.3.5: the claims of its milestone, and the test of each claim on the results."""

from typing import Any

from shared.course.evidence import Claim, Evidence
from shared.course.gateway import diagnosis, grade_run, overload
from shared.course.gateway.five_failures import FAILURES
from shared.course.gateway.tables import medians
from shared.metrics.spread import Spread

FIVE = tuple(one.exercise for one in FAILURES.values())
NAIVE_FAILS_AT_LEAST = len(grade_run.CHECKS) // 2 + 1  # most of them


def five_failures(evidence: Evidence) -> tuple[bool, str]:
    entries, seen = evidence.of("failure/"), {}
    for name, failure in FAILURES.items():
        for gateway, cell in (("naive", f"fail-{name}"), ("gateway", "five-again")):
            key = f"failure/{name}/{gateway}"
            if key not in entries:
                return False, f"missing: {key}: run the cell `{cell}`"
            values = failure.read(evidence.raw(key))
            if values != entries[key]["values"]:
                return False, f"{key} doesn't follow from its raw data"
            seen[name, gateway] = values
    mended = {both: FAILURES[both[0]].mended(values) for both, values in seen.items()}
    if shown := [name for name in FAILURES if mended[name, "naive"]]:
        return False, f"the naïve gateway did not fail here: {', '.join(shown)}"
    said = {name: FAILURES[name].seen(seen[name, "gateway"]) for name in FAILURES}
    if failed := [f"{name} ({said[name]})" for name in FAILURES if not mended[name, "gateway"]]:
        return False, f"your gateway fails: {'; '.join(failed)}"
    return True, "; ".join(f"{name}: {text}" for name, text in said.items())


def graded(evidence: Evidence) -> tuple[bool, str]:
    entries, passed = evidence.of("grade/"), {}
    for gateway, cell in (("gateway", "grade-yours"), ("naive", "grade-naive")):
        key = f"grade/{gateway}"
        if key not in entries:
            return False, f"missing: {key}: run the cell `{cell}`"
        values = grade_run.values(evidence.raw(key))
        if values != entries[key]["values"]:
            return False, f"{key} doesn't follow from its raw data"
        if missing := grade_run.CHECKS.keys() - values["verdicts"].keys():
            return False, f"{key} lacks checks: {', '.join(sorted(missing))}"
        passed[gateway] = values
    mine, naive, of = passed["gateway"], passed["naive"], len(grade_run.CHECKS)
    text = f"{mine['passed']} of {of} checks passed, {naive['passed']} by the naïve gateway"
    if failed := [name for name, good in mine["verdicts"].items() if not good]:
        return False, f"{text}; yours fails: {', '.join(failed)}"
    return of - naive["passed"] >= NAIVE_FAILS_AT_LEAST, text


def panel(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("panel").get("panel")
    if entry is None:
        return False, ""
    counted, got = entry["values"]["counted_tokens"], sum(evidence.raw("panel")["tokens"])
    return counted == got > 0, f"{counted:.0f} tokens by the gateway's counter, {got} by the answers that clients got"


def added(evidence: Evidence) -> tuple[bool, str]:
    entries: dict[str, Any] = evidence.of("added/")
    direct, through = (medians(entries, f"added/{way}/", "ttft_ms") for way in ("direct", "gateway"))
    step = Spread.of(medians(entries, "added/direct/", "itl_ms"))
    ttft = Spread.of(direct), Spread.of(through)
    if ttft[0] is None or ttft[1] is None or step is None:
        return False, ""
    more = ttft[1].median - ttft[0].median
    text = f"TTFT {ttft[0]} ms direct, {ttft[1]} ms through the gateway: {more:+.1f} ms; a decode step: {step} ms"
    return evidence.judged(more < step.median, text)


def overloaded(evidence: Evidence) -> tuple[bool, str]:
    entries = evidence.of(overload.PREFIX)
    needed = {"alone": "overload-first", "first": "overload-first", "yours": "overload-yours"}
    raw = {}
    for name, cell in needed.items():
        key = overload.PREFIX + name
        if key not in entries:
            return False, f"missing: {key}: run the cell `{cell}`"
        raw[name] = evidence.raw(key)
        if overload.counted(raw[name]) != entries[key]["values"]:
            return False, f"{key} doesn't follow from its raw data"
    offered = {str(entries[overload.PREFIX + name]["provenance"]["offered"]) for name in needed}
    if len(offered) > 1:
        return False, "the runs were offered different loads: run the cells `overload-first` and `overload-yours`"
    kept = {name: overload.share_percent(raw["alone"], raw[name]) for name in ("first", "yours")}
    sent = sum(map(len, raw["yours"].values()))
    text = (
        f"{kept['yours']:.0f} % of the paying key's tokens within the SLO are kept while {sent} requests come, "
        f"{kept['first']:.0f} % with the first settings"
    )
    return evidence.judged(kept["yours"] >= overload.AT_LEAST_PERCENT > kept["first"], text)


CLAIMS = (
    Claim("The naïve gateway fails in five ways, and mine in none of them", five_failures,
          {"failure/": "five-again"}, FIVE),
    Claim("My gateway passes every check of the grade run, and the naïve one fails most of them", graded,
          {"grade/gateway": "grade-yours", "grade/naive": "grade-naive"}, FIVE),
    Claim("My gateway counts exactly the tokens that its clients got", panel, {"panel": "watch-load"}, ("feed",)),
    Claim("My gateway adds less to TTFT than a decode step takes", added, {"added/": "added"}, ("ask", "pass_on")),
    Claim(f"At ten times overload the paying key keeps {overload.AT_LEAST_PERCENT} % of its tokens within the SLO",
          overloaded, {"overload/first": "overload-first", "overload/yours": "overload-yours"}),
    Claim("I named a hidden fault by the metric that shows it, and the fix moved that metric back",
          diagnosis.diagnosed, {"diagnose/healthy": "open-case", "diagnose/case": "diagnose"}),
)  # fmt: skip

"""The claims of lab 3.3.1's milestone, each tested on the ledger.

A claim covers the engines that took part. Engines that could not start are skipped and listed with the reason.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from shared import paths
from shared.course.benchmark.lab_tables import apart
from shared.course.benchmark.limits import FITS
from shared.course.benchmark.line_up.verdict import VERDICT, found_it
from shared.course.benchmark.ranking import absent
from shared.course.evidence import Claim, Evidence, NotRunHere, measure_again
from shared.engines import ENGINES
from shared.load.prompts import OPENING_TOKENS
from shared.metrics.correctness import gap_fault
from shared.metrics.roofline import Work
from shared.metrics.summary import prompt_tokens
from shared.metrics.validity import cache_fault
from shared.results import ledger
from shared.results.participants import missing
from shared.results.query import figure_value, rounds
from shared.results.reading import Entry
from shared.results.step_time import fitted, times_ms

COMPARED = ("ollama", "llamacpp", "vllm", "sglang")  # on every machine; TensorRT-LLM needs an NVIDIA GPU
USERS = (1, 4, 16, 32)
PRECISIONS = ("BF16", "Q8_0", "Q4_0")
REASONS = ("quality/", "perplexity/", "engine/llamacpp")  # of a form that was left out, or of its perplexity
TRAPS = ("cache", "chunks", "omission", "precision", "client", "percentile", "queueing")
AGREES = 2e-3  # relative: the ledger rounds to three decimals
NOT_IN_REPORT = ("guess/", "loop/", "own/", "line-up/", "binding/", "published/")  # the beginnings of keys


def takes_part(evidence: Evidence) -> list[str]:
    """The compared engines and any other that has started, without those that could not. Raises NotRunHere if none
    could."""
    left = absent(evidence.entries)
    asked = [name for name in ENGINES if name in COMPARED or f"engine/{name}" in evidence.entries]
    if not (found := [name for name in asked if name not in left]):
        raise NotRunHere(f"no engine could start ({without(evidence).removeprefix('; without ')})")
    return found


def without(evidence: Evidence) -> str:
    """The end of a claim's evidence: the engines that took no part, with the reason."""
    left = absent(evidence.entries)
    parts = [f"{ENGINES[name].title} ({left[name]})" for name in COMPARED if name in left]
    return f"; without {', '.join(parts)}" if parts else ""


def same_model(evidence: Evidence) -> tuple[bool, str]:
    seen = []
    for engine in takes_part(evidence):
        title = ENGINES[engine].title
        entry = evidence.of(f"greedy/{engine}").get(f"greedy/{engine}")
        if entry is None:
            return False, f"nothing recorded for {title}: run the cell `check-greedy`"
        answers = evidence.raw(f"greedy/{engine}")
        if "right" in entry["values"]:  # of a model that only a GPU holds
            wrong = [answer["question"] for answer in answers if not answer["right"]]
            if wrong or not answers:
                return False, f"{title} answered wrongly: {', '.join(wrong)}"
            seen.append(f"{title} {len(answers)} of {len(answers)} known answers")
            continue
        gaps = [gap for answer in answers for gap in answer["gaps"]]
        if max(gaps) != entry["values"]["worst_gap_nats"]:
            text = f"{title}: the recorded worst gap doesn't follow from the raw gaps"
            return False, f"{text}: {measure_again(f'greedy/{engine}', 'check-greedy')}"
        if fault := gap_fault(gaps):
            return False, f"{title}: {fault}"
        seen.append(f"{title} worst {max(gaps):.3f} nats over {len(gaps)} tokens")
    return bool(seen), "; ".join(seen) + without(evidence)


def all_loads(evidence: Evidence) -> tuple[bool, str]:
    here = takes_part(evidence)
    found = rounds(evidence.of("load/"), "output_tok_s")
    lacking = [f"{ENGINES[e].title} at {u}" for e in here for u in USERS if (e, u) not in found]
    if lacking or not here:
        return False, f"missing: {', '.join(lacking)} users: run the cell `run-load`"
    prompts = rounds(evidence.of("prompt/"), "ttft_ms", "prompt/", "input_tokens")
    lengths = sorted({tokens for _, tokens in prompts})
    lacking = [f"{n} tokens with {ENGINES[e].title}" for e in here for n in lengths if (e, n) not in prompts]
    if lacking or len(lengths) < 2:
        return False, f"missing: prompts of {', '.join(lacking) or 'two lengths'}: run the cell `run-prompts`"
    least = min(len(values) for values in (*found.values(), *prompts.values()))
    if least < 2:
        return False, "each load needs at least two rounds for a spread: run the cell `run-load`"
    text = (
        f"{len(here)} engines at {', '.join(map(str, USERS))} users and with prompts of {', '.join(map(str, lengths))} "
    )
    return True, f"{text}tokens, at least {least} rounds each{without(evidence)}"


def loads_of(evidence: Evidence) -> dict[str, Entry]:
    return evidence.of("load/") | evidence.of("prompt/") | evidence.of("precision/")


def load_again(key: str) -> str:
    return measure_again(key, next(cell for prefix, cell in LOADS.items() if key.startswith(prefix)))


def follows_from_raw(evidence: Evidence) -> tuple[bool, str]:
    loads = loads_of(evidence)
    if not loads:
        return False, "nothing recorded: run the cell `run-load`"
    failed = sum(e["values"]["failed"] for e in loads.values())
    total = sum(e["values"]["requests"] for e in loads.values())
    text = (
        f"{len(loads)} summaries computed again from their raw traces, all equal; {failed} of {total} requests failed"
    )
    if failed:
        bad = next(key for key, e in loads.items() if e["values"]["failed"])
        text += f", the first in {bad}: {load_again(bad)}"
    return not failed, text


def no_cache_help(evidence: Evidence) -> tuple[bool, str]:
    found = loads_of(evidence)
    engine_of = {key: e["provenance"]["engine"] for key, e in found.items()}
    counting = {engine_of[key] for key, e in found.items() if e["values"]["cached_tokens"] is not None}
    if not counting:
        return False, "no count of cached tokens is recorded: run the cell `run-load`"
    counted = {key: e for key, e in found.items() if engine_of[key] in counting}
    if silent := next((key for key, e in counted.items() if e["values"]["cached_tokens"] is None), None):
        text = f"{silent}: the engine did not report how many prompt tokens came from its cache"
        return False, f"{text}: {load_again(silent)}"
    loads = counted.values()
    cached = sum(e["values"]["cached_tokens"] for e in loads)
    prompt = sum(prompt_tokens(e["values"]) for e in loads)
    opening = OPENING_TOKENS * sum(e["values"]["requests"] for e in loads if e["values"]["cached_tokens"])
    text = f"{cached} of about {prompt:,.0f} prompt tokens came from caches, by the engines' counters"
    if cached:
        text += f"; the template's opening may account for {opening} of them"
    if mute := [spec.title for name, spec in ENGINES.items() if name in {*engine_of.values()} - counting]:
        text += f"; unknown for {', '.join(mute)}, whose counter can't be read here"
    for engine in sorted(counting):  # each by itself: the prompts of the others would hide the help that one had
        its = [entry["values"] for key, entry in counted.items() if engine_of[key] == engine]
        came, sent = sum(v["cached_tokens"] for v in its), sum(map(prompt_tokens, its))
        if fault := cache_fault(came, round(sent), sum(v["requests"] for v in its if v["cached_tokens"])):
            return False, f"{ENGINES[engine].title}: {fault}; {text}"
    return True, text


def own_figures(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("own/figures").get("own/figures")
    loads = evidence.of("load/")
    if entry is None or not loads:
        return False, "nothing recorded: run the cell `own-figures`"
    own = evidence.raw("own/figures")
    if missed := loads.keys() - own.keys():
        covered = f"{len(loads) - len(missed)} of {len(loads)} recorded loads"
        return False, f"your own figures cover {covered}: run the cell `own-figures` again"
    worst = max(apart(figures, loads[key]["values"]) for key, figures in own.items() if key in loads)
    if worst > AGREES:
        text = f"your figures differ from the ledger's by up to {100 * worst:.1f} %"
        return False, f"{text}: run the cell `own-figures` again"
    text = f"TTFT, TPOT and throughput of {len(loads)} loads, at most {100 * worst:.2f} % apart"
    return True, text + own_loop(evidence)


def own_loop(evidence: Evidence) -> str:
    """What the student's load generator did, for the end of a sentence."""
    entry = evidence.of("loop/own").get("loop/own")
    if entry is None:
        return "; your load generator has not driven an engine yet: run the cell `own-loop`"
    values = entry["values"]
    return f"; your load generator got {values['answers']} answers, {values['users_at_once']} requests at once"


def explained(evidence: Evidence) -> tuple[bool, str]:
    """Whether limits were computed, and each engine's step was fitted to its loads.

    The fit explains an engine only if its worst misfit is at most `FITS`. Of any other engine the evidence states that
    the model does not explain it.
    """
    if not evidence.of("predict/limits") and "predict/limits" not in ledger.load_results("3.3.1", "quoted"):
        return False, "no limits were computed: run the cell `predict-limits`"
    parts = []
    for engine in takes_part(evidence):
        entry = evidence.of(f"fit/{engine}").get(f"fit/{engine}")
        if entry is None:
            return False, f"no fit of {ENGINES[engine].title}'s step: run the cell `fit-steps`"
        raw = evidence.raw(f"fit/{engine}")
        measured = [(n, Work(*work), ms) for n, work, ms in raw["points"]]
        now = times_ms(evidence.of("load/"), engine)
        if {n: ms for n, _, ms in measured} != now:
            text = f"{ENGINES[engine].title}: its loads were measured again after the fit"
            return False, f"{text}: run the cell `fit-steps`"
        again = fitted(measured, raw["bandwidth_gb_s"])
        if abs(again.overhead_ms - entry["values"]["overhead_ms"]) > 1e-6:
            text = f"{ENGINES[engine].title}: the recorded fit doesn't follow from the loads"
            return False, f"{text}: run the cell `fit-steps`"
        steps = entry["values"]["steps"].items()
        if any(abs(model / made(entry["values"], int(n)) - 1) > AGREES for n, (_, model) in steps):
            text = f"{ENGINES[engine].title}: its modelled steps are not the sum of their parts"
            return False, f"{text}: run the cell `fit-steps`"
        fits = again.worst_residual <= FITS
        left_ms = f"; {again.overhead_ms:.1f} ms neither reading nor computing" if fits else ""
        misfit = f"(misfit {100 * again.worst_residual:.0f} %{left_ms})"
        parts.append(f"{ENGINES[engine].title} {'' if fits else 'not '}{misfit}")
    limit = f"explained, with a misfit of at most {100 * FITS:.0f} %: "
    return bool(parts), (limit if parts else "") + ", ".join(parts) + without(evidence)


def made(values: Mapping[str, Any], users: int) -> float:
    each = values["kv_ms_per_user"] + values["operations_ms_per_user"]
    return float(values["overhead_ms"] + values["bytes_ms"] + users * each)


def precisions(evidence: Evidence) -> tuple[bool, str]:
    left = {key: why for kind in REASONS for key, why in missing(evidence.entries, kind).items()}
    loads = evidence.of("precision/")
    parts = []
    for form in PRECISIONS:
        quality = evidence.of(f"quality/{form}").get(f"quality/{form}")
        if why := left.get(f"quality/{form}") or left.get("engine/llamacpp"):
            parts.append(f"{form} left out ({why})")
            continue
        speeds = [
            1e3 / figure_value(e["values"]["tpot_ms"])
            for key, e in loads.items()
            if key.startswith(f"precision/{form}/users-1/")
        ]
        perplexity, lacks = (quality or {"values": {}})["values"].get("perplexity"), left.get(f"perplexity/{form}")
        if quality is None or len(speeds) < 2 or not (perplexity or lacks):
            return False, f"{form}: nothing recorded: run the cells `run-precisions` and `judge-precisions`"
        about = f"perplexity {perplexity:.2f}" if perplexity else f"no perplexity ({lacks})"
        parts.append(f"{form} {statistics.median(speeds):.0f} tok/s, {about}")
    if all("left out" in part for part in parts):
        raise NotRunHere("; ".join(parts))
    return True, "; ".join(parts)


def traps(evidence: Evidence) -> tuple[bool, str]:
    there = {key.removeprefix("lie/") for key in evidence.of("lie/")}
    if lacking := [name for name in TRAPS if name not in there]:
        cells = ", ".join(f"`lie-{name}`" for name in lacking)
        return False, f"missing: {', '.join(lacking)}: run the cell{'s' * (len(lacking) > 1)} {cells}"
    return True, f"{len(TRAPS)} traps, each with the wrong and the right number"


def unfair_run(evidence: Evidence) -> tuple[bool, str]:
    """Whether the student's verdict on the line-up follows from the ledger."""
    entry = evidence.of(VERDICT).get(VERDICT)
    if entry is None:
        if why := missing(evidence.entries, "line-up/").get("line-up/runs"):
            return True, f"the line-up was not run here ({why})"
        return False, "no verdict on the line-up: run the cells `my-verdict` and `judge-verdict`"
    v = entry["values"]
    right, why = found_it(evidence.of("line-up/"), v["number"], v["suspect"], v["evidence"])
    text = f"line-up {v['number']}, {why}"
    return right, text if right else f"{text}: run the cells `my-verdict` and `judge-verdict`"


def reported(evidence: Evidence) -> tuple[bool, str]:
    files = [paths.results() / "report.html", paths.results() / "report.md"]
    lacking = [f.name for f in files if not f.exists()]
    if lacking:
        return False, f"{' and '.join(lacking)} missing: run the cell `write-report`"
    made_of = [key for key in ledger.load_results("3.3.1", None) if not key.startswith(NOT_IN_REPORT)]
    at_s = {key: file.stat().st_mtime for key in made_of if (file := ledger.raw_file("3.3.1", key)).exists()}
    newest = max(at_s, key=at_s.__getitem__, default="none")
    if not loads_of(evidence) or min(f.stat().st_mtime for f in files) < at_s[newest]:
        return False, f"the report is older than the results (the newest: {newest}): run the cell `write-report` again"
    return True, f"{paths.show(files[0])} and {files[1].name}, newer than every result in them"


LOADS = {"load/": "run-load", "prompt/": "run-prompts", "precision/": "run-precisions"}
CLAIMS = (
    Claim("All engines compute the same model: greedy tokens stay within the allowed gap to the reference", same_model,
          {"greedy/": "check-greedy"}),
    Claim("All engines were measured from 1 to 32 users and by prompt length, in repeated rounds", all_loads,
          {"load/": "run-load", "prompt/": "run-prompts"}),
    Claim("Every figure follows from its raw traces, and no request failed", follows_from_raw, LOADS),
    Claim("No prefix cache helped (under 1 % of prompt tokens beyond the template's opening)", no_cache_help, LOADS),
    Claim("Your own TTFT, TPOT and throughput agree with the ledger's", own_figures,
          {"own/": "own-figures", "load/": "run-load", "loop/": "own-loop"},
          ("closed_loop", "latencies_ms", "output_tok_s")),
    Claim("Limits were computed, and for each engine it was tested whether the step-time model explains it", explained,
          {"fit/": "fit-steps", "load/": "run-load", "predict/": "predict-limits"},
          ("pass_floor_ms", "step_ms")),
    Claim("Fewer bits on llama.cpp: decode speed and perplexity of each form were measured", precisions,
          {"precision/": "run-precisions", "quality/": "judge-precisions"}, ("not_fixed_ms",)),
    Claim("Seven misleading figures were corrected, the unfair run was found, and the report is up to date",
          lambda evidence: every((traps(evidence), unfair_run(evidence), reported(evidence))),
          {**LOADS, "greedy/": "check-greedy", "fit/": "fit-steps", **{f"lie/{name}": f"lie-{name}" for name in TRAPS},
           "line-up/": "run-line-up", VERDICT: "judge-verdict"},
          ("late_share", "percentile")),
)  # fmt: skip


def every(parts: Sequence[tuple[bool, str]]) -> tuple[bool, str]:
    failed = [text for ok, text in parts if not ok]
    return not failed, "; ".join(failed or [text for _, text in parts])

"""The report's sections on machine and model, method, doubtful results, and how to repeat the run."""

from shared.engines import ENGINES
from shared.load.loads import users_text
from shared.metrics.spread import number
from shared.metrics.summary import prompt_tokens
from shared.report.page import Section
from shared.report.table import Table
from shared.results.query import rounds
from shared.results.reading import Entries


def names(loads: Entries) -> list[str]:
    """Engines in the report, in the module's order."""
    there = {e["provenance"]["engine"] for e in loads.values()}
    return [name for name in ENGINES if name in there]


def profiles(loads: Entries) -> set[str]:
    return {e["provenance"]["profile"] for e in loads.values()}


def on_cpu(loads: Entries) -> bool:
    return "cpu" in profiles(loads)


def machine(entries: Entries, loads: Entries) -> Section:
    places: dict[tuple[str, ...], int] = {}
    for entry in loads.values():
        p = entry["provenance"]
        cores, gpu = f"{p['cores']} of {p['machine_cores']}", p["gpu"] or "none"
        place = (p["processor"], cores, f"{p['memory_gib'] or '?'} GiB", gpu, p["profile"])
        places[place] = places.get(place, 0) + 1
    header = ("processor", "cores used", "memory", "GPU", "profile", "results")
    table = Table("Machines that the results come from", header, [(*p, str(n)) for p, n in places.items()]).markdown()
    text = f"{table}\n\nModel: {p['model_origin']}. Every engine ran these weights."
    if ceilings := entries.get("predict/limits"):
        v = ceilings["values"]
        text += (
            f"\n\nCeilings ({ceilings['kind']}): memory bandwidth {number(v['bandwidth_gb_s'])} GB/s, matrix products "
            f"{number(1e3 * v['peak_tflop_s'])} GFLOP/s."
        )
    if "spark" not in profiles(loads):
        text += "\n\nNot verified on hardware: nothing in this report was run on a DGX Spark."
    return Section("Machine and model", text)


def method(entries: Entries, loads: Entries) -> Section:
    some = next(iter(loads.values()))["provenance"]
    times = sorted(e["provenance"]["time"] for e in loads.values())
    data = rounds(entries, "output_tok_s")
    count = min(len(v) for v in data.values())
    cached = [e["values"]["cached_tokens"] for e in loads.values()]
    prompt = sum(prompt_tokens(e["values"]) for e in loads.values())
    cache = "unknown" if None in cached else f"{sum(cached)} of about {prompt:,.0f} prompt tokens"
    shorter = [ENGINES[name].title for name in names(loads) if not ENGINES[name].exact_length]
    lags = [lag["p99"] for e in loads.values() if (lag := e["values"].get("client_lag_ms"))]
    failed = sum(e["values"]["failed"] for e in loads.values())
    total = sum(e["values"]["requests"] for e in loads.values())
    text = "\n".join(
        [
            engines(entries, loads).markdown(),
            "",
            "- Closed loop: N users start at once, and each sends the next request when the last answer has ended. A "
            "load has as many requests as users, and at least two. With many users it is a burst that includes the "
            f"prompts, not a steady state. Prompts are {some['prompts']}, answers are greedy and have exactly "
            f"{some['max_tokens']} tokens"
            + (f" (at most, for {', '.join(shorter)}, which can't suppress end-of-text)." if shorter else "."),
            f"- At least {count} rounds of each load, with the engines in turn (A B A B …)"
            + (", each warmed up before its first round. " if some.get("size") == "full" else ". ")
            + "Figures are medians of the rounds, with the smallest and the largest in brackets. "
            "There is no winner where intervals overlap.",
            "- Set equal for all engines: weights, context per request, number of slots, cores (see the flags below)."
            + (f" {widened}" if (widened := in_float32(loads)) else ""),
            "- The engines count the tokens (`usage`); chunks are not counted. "
            f"Each prompt begins with a nonce. Prefix caches supplied {cache}.",
            f"- {failed} of {total} requests failed. The client used at most "
            f"{100 * max(e['values']['client_cpu_share'] for e in loads.values()):.0f} % of one core"
            + (f", and its event loop woke up at most {max(lags):.0f} ms late (p99)." if lags else "."),
            *doubts(entries, loads),
            f"- Measured from {times[0]} to {times[-1]}.",
        ]
    )
    return Section("Method", text)


def in_float32(loads: Entries) -> str:
    """A sentence on the engines that widened the weights to float32; "" if none did."""
    some = {e["provenance"]["engine"] for e in loads.values() if e["provenance"].get("dtype") == "float32"}
    if not some:
        return ""
    titles = " and ".join(ENGINES[name].title for name in ENGINES if name in some)
    return (
        f"This processor has no fast BF16 products, so {titles} widened the weights to float32 when loading. That "
        "changes no weight, but doubles the bytes that a step reads. The others widen weights as they compute."
    )


def engines(entries: Entries, loads: Entries) -> Table:
    rows = []
    for name in names(loads):
        p = next(e["provenance"] for e in loads.values() if e["provenance"]["engine"] == name)
        greedy = entries.get(f"greedy/{name}", {"values": {}})["values"]
        gap = f"{greedy['worst_gap_nats']:.3f}" if "worst_gap_nats" in greedy else "not checked"
        computed = f", computed in {p['dtype']}" if p.get("dtype") == "float32" else ""
        rows.append((ENGINES[name].title, p["engine_version"], p["precision"] + computed, gap))
    return Table("Engines", ("engine", "version", "weights", "worst greedy gap, nats"), rows)


def doubts(entries: Entries, loads: Entries) -> list[str]:
    """One line for each reason to doubt a result, or one line that there is none."""
    limits = entries["predict/limits"]["values"]["decode_tok_s"] if "predict/limits" in entries else {}
    found = []
    for key, entry in loads.items():
        values = entry["values"]
        reasons = [values.get(name) for name in ("client_bottleneck", "disturbed", "cache_fault")]
        if values["failed"]:
            count = f"{values['failed']} of {values['requests']} requests failed (the first: {values['first_error']})"
            reasons.append(f"{count}, so the tables that rank engines leave this load out")
        limit = limits.get(str(values["users"]))
        if limit and values["output_tok_s"] > limit:
            speed = f"{number(values['output_tok_s'])} tok/s to {users_text(values['users'])}"
            reasons.append(f"{speed} is {100 * values['output_tok_s'] / limit:.0f} % of the physical limit")
        found += [f"- **Doubtful:** {key}: {one}." for one in reasons if one]
    if found:
        return found
    above = "No result is above the physical limit" if limits else "The physical limit was not computed"
    unknown = any(e["values"].get("others_cpu_share") is None for e in loads.values())
    others = "; for some results, the load from other programs is unknown" if unknown else ""
    return [f"- {above}. No client{'' if unknown else ' and no other program'} slowed a result down{others}."]


def start_commands(loads: Entries) -> Section:
    rows = []
    for name in names(loads):
        p = next(e["provenance"] for e in loads.values() if e["provenance"]["engine"] == name)
        flags = " ".join(k if v is True else f"{k} {v}" for k, v in p["flags"].items() if v is not False)
        rows.append((ENGINES[name].title, f"`{flags}`", p["model_sha256"][:12], str(p["git_commit"] or "no git")))
    header = ("engine", "flags beyond the model's", "weights, sha256", "commit of the labs")
    return Section(
        "How to repeat it",
        "Run `make report` in this project.\n\n"
        + Table("Flags that the engines were started with", header, rows).markdown(),
    )


def limits() -> Section:
    return Section(
        "What this does not show",
        "\n".join(
            [
                "- Other models. In a bigger one, memory and arithmetic take a larger part of each step.",
                "- Waiting times in an open loop. In a closed loop, users wait for the engine before they ask again.",
                "- The effect of prefix caches, which help most chats. All prompts differ here on purpose.",
                "- An engine with cores of its own. The client ran on the same cores.",
                "- Other days. All rounds come from one session, and so do the intervals.",
            ]
        ),
    )

"""How the report of lab 3.3.1 was made: machine and model, method and what speaks against it, how to repeat it."""

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
        place = (p["processor"], cores, f"{p['memory_gib']} GiB", gpu, p["profile"])
        places[place] = places.get(place, 0) + 1
    header = ("processor", "cores used", "memory", "GPU", "profile", "results")
    table = Table("", header, [(*place, str(count)) for place, count in places.items()]).markdown()
    text = f"{table}\n\nModel: {p['model_origin']}. Every engine ran these weights."
    if ceilings := entries.get("predict/limits"):
        v = ceilings["values"]
        text += (
            f"\n\nCeilings ({ceilings['kind']}): {number(v['bandwidth_gb_s'])} GB/s to read memory, "
            f"{number(1e3 * v['peak_tflop_s'])} GFLOP/s to multiply matrices."
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
    failed = sum(e["values"]["failed"] for e in loads.values())
    total = sum(e["values"]["requests"] for e in loads.values())
    text = "\n".join(
        [
            engines(entries, loads).markdown(),
            "",
            "- Closed loop: N users who begin at once, each sends its next request when its last answer has ended; as "
            "many requests as users, and at least two. With many users that is a burst, prompts included, and no "
            f"steady state. The prompts are {some['prompts']} ones, answers have exactly {some['max_tokens']} tokens"
            + (f" ({', '.join(shorter)} can't suppress its end-of-text: at most)" if shorter else "")
            + ", all greedy.",
            f"- {count} rounds or more of each load, engines in turn (A B A B …), each warmed up before its first. "
            "Figures are the median of the rounds, in brackets the least and the most. "
            "Where two engines' intervals overlap there is no winner.",
            "- Meant to be equal for all: weights, context of a request, number of slots, cores (see the flags below)."
            + (f" {widened}" if (widened := in_float32(loads)) else ""),
            "- Tokens are counted by the engines (`usage`), not by chunks. "
            f"Each prompt begins with a nonce; taken from prefix caches: {cache}.",
            f"- {failed} of {total} requests failed. The client used at most "
            f"{100 * max(e['values']['client_cpu_share'] for e in loads.values()):.0f} % of one core.",
            *doubts(entries, loads),
            f"- Measured from {times[0]} to {times[-1]}.",
        ]
    )
    return Section("Method", text)


def in_float32(loads: Entries) -> str:
    """A sentence on the engines that widen the weights; "" if none does."""
    some = {e["provenance"]["engine"] for e in loads.values() if e["provenance"].get("dtype") == "float32"}
    if not some:
        return ""
    who = " and ".join(ENGINES[name].title for name in ENGINES if name in some)
    return (
        f"This processor has no fast BF16 products, so {who} widened them to float32 when loading, which changes no "
        "weight but doubles the bytes of a step; the others widen them as they compute."
    )


def engines(entries: Entries, loads: Entries) -> Table:
    rows = []
    for name in names(loads):
        p = next(e["provenance"] for e in loads.values() if e["provenance"]["engine"] == name)
        greedy = entries.get(f"greedy/{name}", {"values": {}})["values"]
        gap = f"{greedy['worst_gap_nats']:.3f}" if "worst_gap_nats" in greedy else "not checked"
        computed = f", computed in {p['dtype']}" if p.get("dtype") == "float32" else ""
        rows.append((ENGINES[name].title, p["engine_version"], p["precision"] + computed, gap))
    return Table("", ("engine", "version", "weights", "worst greedy gap, nats"), rows)


def doubts(entries: Entries, loads: Entries) -> list[str]:
    """What speaks against single results, a line each; or that nothing does."""
    limits = entries["predict/limits"]["values"]["decode_tok_s"] if "predict/limits" in entries else {}
    found = []
    for key, entry in loads.items():
        values = entry["values"]
        reasons = [values.get(name) for name in ("client_bottleneck", "disturbed", "cache_fault")]
        if values["failed"]:
            count = f"{values['failed']} of {values['requests']} requests failed, so it decides nothing above"
            reasons.append(f"{count} (the first: {values['first_error']})")
        limit = limits.get(str(values["users"]))
        if limit and values["output_tok_s"] > limit:
            speed = f"{number(values['output_tok_s'])} tok/s to {users_text(values['users'])}"
            reasons.append(f"{speed} is {100 * values['output_tok_s'] / limit:.0f} % of the physical limit")
        found += [f"- **Doubtful:** {key}: {one}." for one in reasons if one]
    if found:
        return found
    above = "No result is above the physical limit" if limits else "What the machine can do at best was not worked out"
    unknown = any(e["values"].get("others_cpu_share") is None for e in loads.values())
    others = "; whether other programs were is not known of all" if unknown else ""
    return [f"- {above}. No client{'' if unknown else ' and no other program'} was in the way{others}."]


def start_commands(loads: Entries) -> Section:
    rows = []
    for name in names(loads):
        p = next(e["provenance"] for e in loads.values() if e["provenance"]["engine"] == name)
        flags = " ".join(k if v is True else f"{k} {v}" for k, v in p["flags"].items() if v is not False)
        rows.append((ENGINES[name].title, f"`{flags}`", p["model_sha256"][:12], str(p["git_commit"] or "no git")))
    header = ("engine", "flags beyond the model's", "weights, sha256", "commit of the labs")
    return Section(
        "How to repeat it",
        "`make report` in this project; engines were started with\n\n" + Table("", header, rows).markdown(),
    )


def limits() -> Section:
    return Section(
        "What this does not show",
        "\n".join(
            [
                "- One model. A bigger one shifts time from overhead to memory and arithmetic.",
                "- A closed loop hides how long requests would wait if users did not wait for the engine.",
                "- Prompts that share nothing: prefix caches, which help most chats, were kept out on purpose.",
                "- The client shares the cores with the engine, as it does on any single machine.",
                "- A few minutes of one day: a machine's other days are not in the intervals.",
            ]
        ),
    )

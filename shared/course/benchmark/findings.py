"""What the report of lab 3.3.1 found, section by section. Each takes the ledger's entries, and is None without its own.

`entries` is all that the ledger holds, quoted figures included; `loads` are its measured loads by number of users.
"""

from collections.abc import Sequence

from shared.course.benchmark import published
from shared.course.benchmark.method import limits, machine, method, on_cpu, profiles, start_commands
from shared.course.benchmark.precision_findings import precision_section
from shared.course.benchmark.ranking import absent, guide, of_each, sound, verdict
from shared.course.benchmark.step_findings import step_section
from shared.engines import ENGINES
from shared.load.loads import users_text
from shared.metrics.roofline import SPARK, bits_per_weight
from shared.metrics.spread import number
from shared.metrics.summary import FIGURES
from shared.report import plots
from shared.report.page import Section
from shared.report.plots import bars, by_prompt, by_users
from shared.report.table import Table
from shared.results.query import rounds
from shared.results.reading import Entries


def every(entries: Entries, loads: Entries) -> Sequence[Section | None]:
    """The report, in its reader's order: the answer, what it rests on, how it was made."""
    return (
        question(entries, loads),
        ahead(entries),
        throughput(entries, loads),
        step_section(entries),
        precision_section(entries),
        memory(entries),
        traps(entries),
        spark(entries, loads),
        machine(entries, loads),
        method(entries, loads),
        start_commands(loads),
        limits(),
    )


def question(entries: Entries, loads: Entries) -> Section:
    some = next(iter(loads.values()))["provenance"]
    caveat = (
        "**Measured on a processor without a GPU.** Its cores rank the engines' CPU paths, not what they do on a GPU: "
        "nothing here says which engine is faster on a DGX Spark.\n\n"
        if on_cpu(loads)
        else ""
    )
    left = [f"- {ENGINES[name].title} took no part: {why}" for name, why in absent(entries).items()]
    repeats = min((len(values) for values in rounds(entries, FIGURES[0][0]).values()), default=0)
    rule = (
        "the intervals of the medians don't overlap (95 %, by bootstrap over the rounds; with five rounds it is their "
        "range)"
        if repeats >= 5
        else "the ranges of the rounds don't overlap"
    )
    text = (
        f"{caveat}Which engine should serve **{some['model']}** ({some['precision']}) on **{some['processor']}**, "
        f"{some['cores']} cores, and for what? For this machine and this model, and no other:\n\n"
        f"{guide(entries).markdown()}\n\n"
        f"An engine is chosen where {rule}." + ("\n\n" + "\n".join(left) if left else "")
    )
    return Section("Which engine for what", text)


def ahead(entries: Entries) -> Section:
    users = sorted({u for _, u in rounds(entries, FIGURES[0][0])})
    whole = sound(entries)
    rows = [
        (f"{title.split(',')[0]}, {unit}", *(verdict(rounds(whole, value), u, more) for u in users))
        for value, title, unit, more in FIGURES
    ]
    lengths = sorted({n for _, n in rounds(entries, "ttft_ms", "prompt/", "input_tokens")})
    prompts = [(f"{n} tokens", verdict(rounds(whole, "ttft_ms", "prompt/", "input_tokens"), n, False)) for n in lengths]
    header = ("", *map(users_text, users))
    text = Table("", header, rows).markdown()
    if prompts:
        text += "\n\n" + Table("", ("prompt of one user", "time to first token"), prompts).markdown()
    return Section(
        "Which engine was ahead",
        f"{text}\n\nNamed are the best engine and those whose interval overlaps with its own; the factor is its median "
        "against that of the best engine behind them. No winner: all overlap, or there was only one round.",
    )


def limit(entries: Entries, name: str, title: str) -> plots.Limit | None:
    """The physical limit at each load, as the lab worked it out before it measured."""
    known = entries.get("predict/limits", {"values": {}})["values"].get(name)
    return (title, {int(at): value for at, value in known.items()}) if known else None


def throughput(entries: Entries, loads: Entries) -> Section:
    limits_at = {"output_tok_s": limit(entries, "decode_tok_s", "physical limit")}
    shown = [by_users(loads, value, title, unit, limits_at.get(value)) for value, title, unit, _ in FIGURES]
    if any(key.startswith("prompt/") for key in entries):
        floor = limit(entries, "prefill_ms", "physical floor")
        shown.append(by_prompt(entries, "ttft_ms", "Time to first token by prompt length, one user", "ms", floor))
    return Section(
        "Figures",
        "Whiskers span the rounds. Each figure's numbers are in the table below it. The physical limit is that of "
        "decoding alone: these loads also read their prompts.",
        tuple(shown),
    )


def memory(entries: Entries) -> Section | None:
    found = of_each(entries, "memory/")
    if not found:
        return None
    shown: dict[str, dict[str, float | None]] = {}
    for name, v in found.items():
        whole = v["resident_gib"]
        rest = None if whole is None else max(0.0, whole - v["weights_gib"])
        shown[ENGINES[name].title] = {"weights": v["weights_gib"], "everything else": rest}
    starts = {
        key.removeprefix("engine/"): e["values"].get("startup_s")
        for key, e in entries.items()
        if key.startswith("engine/")
    }
    rows = [
        (
            ENGINES[name].title,
            number(starts[name]) if starts.get(name) else "–",
            number(v["weights_gib"]),
            number(v["kv_gib"]),
            "unknown" if v["resident_gib"] is None else number(v["resident_gib"]),
        )
        for name, v in found.items()
    ]
    header = ("engine", "start-up, s", "weights, GiB", "KV cache set apart, GiB", "all its processes, GiB")
    text = (
        "Start-up runs from the command to the first token, measured once. Memory was read after all loads; what "
        "processes share is counted once. A KV cache that is set apart takes memory only where it has been used.\n\n"
        + Table("", header, rows).markdown()
    )
    return Section("Start-up and memory", text, (bars("Memory after all loads", "GiB", shown, stacked=True),))


def traps(entries: Entries) -> Section | None:
    found = [e["values"] for key, e in entries.items() if key.startswith("lie/")]
    if not found:
        return None
    rows = [(v["trap"], f"{v['wrong']} {v['unit']}", f"{v['right']} {v['unit']}", v["why"]) for v in found]
    text = Table("", ("trap", "so it would have been reported", "what it was", "the difference"), rows).markdown()
    return Section("How this could have been a lie", f"Each was made on purpose, on the engines above.\n\n{text}")


def spark(entries: Entries, loads: Entries) -> Section | None:
    if not published.quoted(entries, "outline/"):
        return None
    here = published.NOT_MEASURABLE if on_cpu(loads) else "see the figures above"
    ceiling = SPARK.bandwidth_gb_s / (2 * published.llama_8b_read() / 1e9)
    nothing = "No figure above was measured on a Spark, so what follows is quoted, each from where it says.\n\n"
    text = (
        ("" if "spark" in profiles(loads) else nothing)
        + "**The course outline's overview, row by row.** It names no precision. With BF16 weights and without "
        f"speculation an 8B model can't pass {number(ceiling)} tok/s on a Spark, so its speeds are of fewer bits: "
        "at most those beside each. All may have had 4, or each its own, so the rows can't be compared.\n\n"
        + published.confronted(entries, bits_per_weight, here).markdown()
        + "\n\nWhat has been published since says of each row:\n\n"
        + published.verdicts(entries)
        + "\n\n**What was published.** Different models, precisions and people: no ranking follows from these rates."
        "\n\n" + published.figures(entries).markdown() + "\n\n**So, for a Spark, by what is quoted above:** choose the "
        "precision before the engine. With about equal bytes llama.cpp and vLLM decode alike for one user, and vLLM is "
        "faster with 4-bit weights than with FP8. For ten users at once vLLM had the most in that comparison. Who "
        "speculates by itself, as Ollama does, can't be compared with who doesn't. All of it is one owner's report: "
        "measure it on yours."
    )
    return Section("And on a DGX Spark?", text)

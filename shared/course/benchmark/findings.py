"""The sections of lab 3.3.1's report, and their order. A section without results is None.

`entries` are all entries of the ledger, quoted figures included. `loads` are its measured loads by number of users.
"""

from collections.abc import Sequence

from shared.course.benchmark import published
from shared.course.benchmark.limits import log_axis
from shared.course.benchmark.method import limits, machine, method, on_cpu, profiles, start_commands
from shared.course.benchmark.precision_findings import precision_section
from shared.course.benchmark.ranking import absent, guide, of_each, sound, verdict
from shared.course.benchmark.step_findings import step_section
from shared.course.own_words import CONCLUSION
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
    """All sections in reading order: the answer, the evidence, the method."""
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
        own_words(entries),
    )


def question(entries: Entries, loads: Entries) -> Section:
    some = next(iter(loads.values()))["provenance"]
    caveat = (
        "**Measured on a processor without a GPU.** These results rank the engines' CPU paths, not what they do "
        "on a GPU. They do not show which engine is faster on a DGX Spark.\n\n"
        if on_cpu(loads)
        else ""
    )
    left = [f"- {ENGINES[name].title} took no part: {why}" for name, why in absent(entries).items()]
    repeats = min((len(values) for values in rounds(entries, FIGURES[0][0]).values()), default=0)
    rule = (
        "the intervals of the medians don't overlap (95 %, bootstrap over the rounds; with five rounds, their range)"
        if repeats >= 5
        else "the ranges of the rounds don't overlap"
    )
    text = (
        f"{caveat}Which engine should serve **{some['model']}** ({some['precision']}) on **{some['processor']}**, "
        f"{some['cores']} cores, and for which use? The answer holds for this machine and this model only.\n\n"
        f"{guide(entries).markdown()}\n\n"
        f"An engine is chosen if {rule}. Engines that can't be told apart from the best one are named with it, each "
        "with its figure. One that has a worse median than an engine clearly behind is left out."
        + ("\n\n" + "\n".join(left) if left else "")
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
    text = Table("Fastest engines by number of users", header, rows).markdown()
    if prompts:
        header = ("prompt of one user", "time to first token")
        text += "\n\n" + Table("Fastest engines by length of the prompt", header, prompts).markdown()
    return Section(
        "Which engine was ahead",
        f"{text}\n\nEach cell names the best engine and those whose interval overlaps with its own, but none with a "
        "worse median than an engine that is clearly behind. The factor "
        "is the ratio of its median to that of the next engine. There is no winner if all intervals "
        "overlap or there was one round.",
    )


def limit(entries: Entries, name: str, title: str) -> plots.Limit | None:
    """The physical limit at each load, from `predict/limits`."""
    known = entries.get("predict/limits", {"values": {}})["values"].get(name)
    return (title, {int(at): value for at, value in known.items()}) if known else None


def throughput(entries: Entries, loads: Entries) -> Section:
    limits_at = {"output_tok_s": limit(entries, "decode_tok_s", "physical limit")}
    shown = [by_users(loads, value, title, unit, limits_at.get(value)) for value, title, unit, _ in FIGURES]
    shown[0] = log_axis(shown[0])  # throughput: a linear axis would press the engines to the bottom
    if any(key.startswith("prompt/") for key in entries):
        floor = limit(entries, "prefill_ms", "physical floor")
        shown.append(by_prompt(entries, "ttft_ms", "Time to first token by prompt length, one user", "ms", floor))
    return Section(
        "Figures",
        "Whiskers span the rounds. The table below each figure has its numbers. The physical limit is for decoding "
        "alone, but these loads also read their prompts.",
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
    header = ("engine", "start-up, s", "weights, GiB", "KV cache reserved, GiB", "all its processes, GiB")
    text = (
        "Start-up is the time from the command to the first token, measured once. Memory was read after all loads; "
        "shared pages count once. A reserved KV cache takes memory only where it has been used.\n\n"
        + Table("Start-up and memory of each engine", header, rows).markdown()
    )
    return Section("Start-up and memory", text, (bars("Memory after all loads", "GiB", shown, stacked=True),))


def traps(entries: Entries) -> Section | None:
    found = [e["values"] for key, e in entries.items() if key.startswith("lie/")]
    if not found:
        return None
    rows = [(v["trap"], f"{v['wrong']} {v['unit']}", f"{v['right']} {v['unit']}", v["why"]) for v in found]
    text = Table("Misleading figures, each produced on purpose", ("trap", "reported", "true", "why"), rows).markdown()
    return Section("How these figures could have misled", f"All of them come from the engines above.\n\n{text}")


def own_words(entries: Entries) -> Section | None:
    """The student's conclusion, and the results that it rests on; None if there is none yet."""
    if CONCLUSION not in entries:
        return None
    written = entries[CONCLUSION]["values"]
    rests_on = ", ".join(f"`{key}`" for key in written["evidence"])
    return Section(
        "Which engine, and why: a conclusion", f"{written['text']}\n\nIt rests on these results: {rests_on}."
    )


def spark(entries: Entries, loads: Entries) -> Section | None:
    if not published.quoted(entries, "outline/"):
        return None
    here = published.NOT_MEASURABLE if on_cpu(loads) else "see the figures above"
    ceiling = SPARK.bandwidth_gb_s / (2 * published.llama_8b_read() / 1e9)
    nothing = "No figure above was measured on a Spark. The figures below are quoted, each with its source.\n\n"
    text = (
        ("" if "spark" in profiles(loads) else nothing)
        + "**The course outline's overview, row by row.** It names no precision. With BF16 weights and without "
        f"speculation, an 8B model can't exceed {number(ceiling)} tok/s on a Spark. So these weights had fewer bits, "
        "at most those in the table. The outline does not state whether all rows had the same precision, so they "
        "can't be compared with each other.\n\n"
        + published.confronted(entries, bits_per_weight, here).markdown()
        + "\n\nLater published figures for each row:\n\n"
        + published.verdicts(entries)
        + "\n\n**All published figures.** Models, precisions and authors differ, so no ranking follows."
        "\n\n" + published.figures(entries).markdown() + "\n\n**For a Spark, by these quotes:** choose the precision "
        "before the engine. In one owner's report on one model, llama.cpp and vLLM decode about equally fast for one "
        "user with about equal bytes, and vLLM is faster with 4-bit weights than with FP8. For ten users, vLLM has the "
        "highest throughput of the engines measured there. An engine that speculates, as Ollama did, can't be compared "
        "with one that doesn't. Measure it on your own Spark."
    )
    return Section("And on a DGX Spark?", text)

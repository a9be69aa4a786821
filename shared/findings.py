"""What the report of lab 3.3.1 found, section by section. Each takes the ledger's entries, and is None without its own.

`entries` is all that the ledger holds, quoted figures included; `loads` are its measured loads by number of users.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from shared import plots, published
from shared.engines import ENGINES
from shared.load import users_told
from shared.method import limits, machine, method, on_cpu, profiles, start_commands
from shared.metrics import Spread, number
from shared.page import Section
from shared.plots import Plot, Table, bars, by_prompt, by_users, rounds
from shared.results import Entry
from shared.roofline import SPARK, bits_per_weight
from shared.verdicts import FIGURES, absent, guide, of_each, sound, verdict

Entries = Mapping[str, Entry]


def every(entries: Entries, loads: Entries) -> Sequence[Section | None]:
    """The report, in its reader's order: the answer, what it rests on, how it was made."""
    return (
        question(entries, loads),
        ahead(entries),
        throughput(entries, loads),
        steps(entries),
        precision(entries),
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
    header = ("", *map(users_told, users))
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


PARTS = ("overhead", "reading", "computing")
FITS = 0.2  # relative: where the model is further off, its parts explain nothing


def steps(entries: Entries) -> Section | None:
    """What a decode step is made of, engine by engine, as the lab's model fitted it."""
    fits = of_each(entries, "fit/")
    if not fits:
        return None
    few, many = (str(f(int(u) for v in fits.values() for u in v["steps"])) for f in (min, max))
    figures = [
        bars(
            f"What a decode step is made of, by the model: {users_told(int(users))}", "ms",
            {ENGINES[name].title: dict(zip(PARTS, parts_ms(v, int(users)), strict=True)) for name, v in fits.items()},
            stacked=True,
        )
        for users in (few, many)
    ]  # fmt: skip
    rows = [
        (
            ENGINES[name].title, number(v["overhead_ms"]), number(v["bytes_ms"]), number(v["operations_ms_per_user"]),
            f"{100 * v['worst_residual']:.0f} %",
        )
        for name, v in fits.items()
    ]  # fmt: skip
    header = ("engine", "overhead, ms", "reading the weights, ms", "computing, ms a user", "worst misfit")
    text = (
        "step = overhead + bytes / bandwidth + operations / rate, fitted to the time per token at every number of "
        "users. The bandwidth is the machine's own, so the same bytes take all engines equally long; what an engine "
        "does slower than that shows as overhead. A large misfit means that its step is no straight line in its "
        "users.\n\n"
        + Table("", header, rows).markdown()
        + "\n\n"
        + "\n".join(f"- {said}" for said in differences(fits, few, many))
    )
    return Section("Why: what a step is made of", text, tuple(figures))


def parts_ms(values: Mapping[str, Any], users: int) -> tuple[float, float, float]:
    reading = values["bytes_ms"] + values["kv_ms_per_user"] * users
    return values["overhead_ms"], reading, values["operations_ms_per_user"] * users


def differences(fits: Mapping[str, Mapping[str, Any]], few: str, many: str) -> list[str]:
    """For each engine behind the fastest one by measurement, in which part of the step its distance lies mostly."""
    said = []
    for users in (few, many):
        steps_ms = {name: v["steps"][users] for name, v in fits.items() if users in v["steps"]}
        best = min(steps_ms, key=lambda name: steps_ms[name][0])
        for name, (measured_ms, _) in steps_ms.items():
            behind_ms = measured_ms - steps_ms[best][0]
            if behind_ms <= 0.1 * steps_ms[best][0]:
                continue
            pair = f"{ENGINES[name].title} is {number(behind_ms)} ms behind {ENGINES[best].title}"
            where = f"At {users_told(int(users))} {pair}"
            if any(abs(modelled / ms - 1) > FITS for ms, modelled in (steps_ms[name], steps_ms[best])):
                said.append(
                    f"{where}; by what, the model can't say: it misses one of the two by more than {100 * FITS:.0f} %."
                )
                continue
            both = (parts_ms(fits[one], int(users)) for one in (name, best))
            apart = [own - theirs for own, theirs in zip(*both, strict=True)]
            said.append(f"{where}, mostly by {PARTS[max(range(3), key=lambda i: apart[i])]}.")
    return said


def precision(entries: Entries) -> Section | None:
    """What fewer bits buy on llama.cpp, and what they cost."""
    table = precision_table(entries)
    if not table.rows:
        return None
    text = (
        "Decoding reads every weight for each token, so fewer bytes buy speed as far as reading is what costs: the "
        "prediction shortens only that part of the step. Prefill computes: where it changes, the arithmetic on these "
        "weights is another, not the reading. The price is in the last two columns.\n\n" + table.markdown()
    )
    return Section("What precision buys", text, (precision_plot(entries),))


def qualities(entries: Entries) -> dict[str, Mapping[str, Any]]:
    found = {key.removeprefix("quality/"): e["values"] for key, e in entries.items() if key.startswith("quality/")}
    return {form: values for form, values in found.items() if "predicted_tok_s" in values}


def precision_table(entries: Entries) -> Table:
    decode, prefill = decode_rates(entries), precision_rounds(entries, "tokens", "ttft_ms")
    rows = [
        (
            form, number(v["bytes"] / 1e6), number(v["predicted_tok_s"]), str(Spread.of(decode.get(form, [])) or "–"),
            str(Spread.of(prefill.get(form, [])) or "–"), f"{v['perplexity']:.2f}" if v.get("perplexity") else "–",
            f"{v['mean_gap_nats']:.4f}" if "mean_gap_nats" in v else "–",
        )
        for form, v in qualities(entries).items()
    ]  # fmt: skip
    header = (
        "weights", "MB", "predicted, tok/s", "measured, one user, tok/s", "TTFT of 512 tokens, ms", "perplexity",
        "mean greedy gap, nats",
    )  # fmt: skip
    return Table("Precision: what it buys and what it costs", header, rows)


def precision_plot(entries: Entries) -> Plot:
    decode = decode_rates(entries)
    shown = {
        form: {"predicted": v["predicted_tok_s"], "measured": median(decode.get(form))}
        for form, v in qualities(entries).items()
    }
    return bars("Decode speed of one user by precision", "tok/s", shown)


def decode_rates(entries: Entries) -> dict[str, list[float]]:
    """Tokens a second of one user once the answer flows, as the prediction has it: prompt and waiting left out."""
    return {form: [1e3 / ms for ms in times] for form, times in precision_rounds(entries, "users-1", "tpot_ms").items()}


def precision_rounds(entries: Entries, what: str, value: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for key, entry in entries.items():
        words = key.split("/")
        if words[0] == "precision" and words[2].startswith(what) and entry["values"].get(value) is not None:
            found.setdefault(words[1], []).append(plots.plain(entry["values"][value]))
    return found


def median(values: Sequence[float] | None) -> float | None:
    spread = Spread.of(values or [])
    return spread.median if spread else None


def memory(entries: Entries) -> Section | None:
    found = of_each(entries, "memory/")
    if not found:
        return None
    shown: dict[str, dict[str, float | None]] = {}
    for name, v in found.items():
        whole = v["resident_gib"]
        rest = None if whole is None else max(0.0, whole - v["weights_gib"])
        shown[ENGINES[name].title] = {"weights": v["weights_gib"], "everything else": rest}
    starts = {key.removeprefix("engine/"): e["values"].get("startup_s") for key, e in entries.items()
              if key.startswith("engine/")}  # fmt: skip
    rows = [
        (
            ENGINES[name].title, number(starts[name]) if starts.get(name) else "–", number(v["weights_gib"]),
            number(v["kv_gib"]), "unknown" if v["resident_gib"] is None else number(v["resident_gib"]),
        )
        for name, v in found.items()
    ]  # fmt: skip
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
    ceiling = SPARK.bandwidth_gb_s / (2 * published.LLAMA_8B_READ / 1e9)
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

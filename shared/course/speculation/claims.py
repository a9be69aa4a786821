"""Lab 3.3.4: the claims of its milestone, and the test of each claim on the results.

That a draft changes no text and that some of its tokens are accepted is judged at every size. Which draft is faster is
judged at the full size only, and only where theory says it for every machine: a claim never needs a certain speed-up.
"""

from shared.course.evidence import Claim, Evidence, Test
from shared.course.speculation import choose, cost_model, speedups
from shared.course.speculation.on_engines import first_tokens
from shared.course.speculation.on_engines.text_check import draft_fault, text_fault
from shared.course.speculation.speedups import HELD_OUT, Rounds, Setting
from shared.engines import ENGINES
from shared.errors import LabError

RULES = ("accept_probability", "residual", "verify", "speculate")
SMALLEST_P = 1e-4
ROUNDING = 1e-12  # of probabilities that are summed over all paths
COST_ERROR_PERCENT = 10.0
COPYING = choose.COPYING


def proved(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("proof/own").get("proof/own")
    if entry is None:
        return False, ""
    values = entry["values"]
    text = (
        f"largest difference over {values['paths']} paths {values['largest_difference']:.0e}; "
        f"p = {values['p_value']:.3f} for {values['samples']:,} samples"
    )
    return values["largest_difference"] < ROUNDING and values["p_value"] > SMALLEST_P, text


def own_text(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("own/speculation").get("own/speculation")
    if entry is None:
        return False, "missing: own/speculation: run the cell `own-speculation`"
    values = entry["values"]
    same = {draft: values[draft]["texts_as_plain"] for draft in ("eagle3", "ngram")}
    text = ", ".join(f"{draft}: {count} of {values['texts']}" for draft, count in same.items())
    return all(count == values["texts"] for count in same.values()), f"greedy texts as without drafts: {text}"


def own_loop(evidence: Evidence) -> tuple[bool, str]:
    exact, proof = proved(evidence)
    if not proof:
        return False, ""
    same, text = own_text(evidence)
    return exact and same, f"{proof}; {text}"


def lossless(engine: str) -> Test:
    """The test that this engine drafts, writes the model's text with each draft, and accepts some of its tokens.

    Some must be accepted of the main draft: the head, or what stands in for it on a machine without one.
    """

    def test(evidence: Evidence) -> tuple[bool, str]:
        prefix, title = f"text/{engine}/", ENGINES[engine].title
        drafted = {key: e for key, e in evidence.of(prefix).items() if not key.endswith("/plain")}
        loads = evidence.of(f"speed/{engine}/")
        found = {s: r for s, r in speedups.read(loads, evidence.raw).items() if s.kind}
        if not drafted or not found:
            evidence.raise_if_not_run(f"engine/{engine}", prefix, f"speed/{engine}/")
            return False, ""
        for key, entry in drafted.items():
            if fault := text_fault(entry["values"], evidence.raw(key)) or draft_fault(entry["values"]):
                return False, f"{title}, {key.removeprefix(prefix)}: {fault}"
        measured = sorted((s for s in found if usual(s)), key=lambda one: (one.kind, one.k))
        if unchecked := [s.draft for s in measured if prefix + s.draft not in drafted]:
            cell = {"llamacpp": "check-text"}.get(engine, f"measure-{engine}")
            return False, f"{title}: the text with {', '.join(unchecked)} was not checked: run the cell `{cell}`"
        seen = []
        for setting in measured:
            counts = found[setting].counts
            if counts is None:
                return False, f"{title} counted no drafts with {setting.draft}"
            accepted = f"{100 * counts.acceptance:.0f} %" if counts.acceptance is not None else "nothing drafted"
            seen.append((setting, counts.accepted, f"{setting.draft} {accepted}"))
        main = speedups.main_kind(found, engine)
        of_main = [accepted for setting, accepted, _ in seen if setting.kind == main]
        text = f"drafts checked: {len(drafted)}; accepted: {', '.join(one for _, _, one in seen)}"
        return bool(of_main) and all(of_main), text

    return test


def usual(setting: Setting) -> bool:
    """Whether it is a load of one user on the usual questions, greedily."""
    return (setting.users, setting.group, setting.temperature) == (1, HELD_OUT, 0)


def same_first_tokens(evidence: Evidence) -> tuple[bool, str]:
    seen: list[str] = []
    blind: list[str] = []
    differs = False
    for engine in ("llamacpp", "vllm"):
        entries = evidence.of(f"first-tokens/{engine}/")
        for draft, found in first_tokens.compared(entries, evidence.raw, engine).items():
            where = f"{ENGINES[engine].title}, {draft}"
            seen += [f"{where}, {what}: p = {one.test.p:.3f}" for what, one in found.items() if one.test]
            differs |= any(one.test.differs for one in found.values() if one.test)
            noticed = [one.noticed_percent for one in found.values() if one.noticed_percent]
            if noticed:
                seen.append(f"control: greedy answers are noticed from {min(noticed)} % on")
            else:
                blind.append(where)
    seen += [f"the samples of {one} show nothing: the test wouldn't notice greedy answers" for one in blind]
    return bool(seen) and not differs and not blind, "; ".join(seen)


def all_loads(evidence: Evidence) -> dict[Setting, Rounds]:
    return speedups.read(evidence.of("speed/"), evidence.raw)


def copying(found: dict[Setting, Rounds]) -> tuple[bool, str]:
    """Whether look-up gains more on copied text than on new text; an empty text where that isn't measured."""
    pairs = []
    for setting in found:
        if setting.kind == "ngram" and setting.engine == choose.ENGINE and usual(setting):
            copied = Setting(setting.engine, setting.kind, setting.k, COPYING)
            pairs.append((speedups.speedup(found, setting), speedups.speedup(found, copied)))
    both = [(new, copies) for new, copies in pairs if new and copies]
    if not both:
        return False, ""
    new, copies = both[0]
    text = f"n-gram look-up on llama.cpp: {copies} times as fast on copied text, {new} on new text"
    return copies.median > new.median, text


def users(found: dict[Setting, Rounds]) -> tuple[bool, str]:
    """Whether the head gains less with more users; an empty text where that isn't measured."""
    seen = []
    for engine in ("vllm", "llamacpp"):
        kinds = {(s.kind, s.k) for s in found if s.engine == engine and s.kind == "eagle3" and s.users > 1}
        for kind, k in sorted(kinds):
            settings = [s for s in found if (s.engine, s.kind, s.k, s.group) == (engine, kind, k, HELD_OUT)]
            by_users = {s.users: one for s in settings if not s.temperature and (one := speedups.speedup(found, s))}
            if 1 in by_users and len(by_users) > 1:
                few, many = by_users[1], by_users[max(by_users)]
                text = f"{ENGINES[engine].title}, {k} drafts: {few} times as fast at 1 user, {many} at {max(by_users)}"
                seen.append((few.median > many.median, text))
    if not seen:
        return False, ""
    return all(falls for falls, _ in seen), "; ".join(text for _, text in seen)


def where_it_gains(evidence: Evidence) -> tuple[bool, str]:
    found = all_loads(evidence)
    both = copying(found), users(found)
    if not all(text for _, text in both):
        return False, ""
    return evidence.judged(all(holds for holds, _ in both), "; ".join(text for _, text in both))


def predicted(evidence: Evidence) -> tuple[bool, str]:
    found = all_loads(evidence)
    synthetic = speedups.read(evidence.of("synthetic/"), evidence.raw, "synthetic/")
    try:
        model = cost_model.fitted(found, synthetic, "llamacpp")
    except LabError:
        return False, ""
    rows = cost_model.tests(model, found)
    error = cost_model.error_of(rows)
    if error is None:
        return False, ""
    worst = max(rows, key=lambda row: abs(row.error))
    text = (
        f"median error {error} % on {len(rows)} settings that it wasn't fitted on, at worst {100 * worst.error:+.0f} % "
        f"({worst.setting.draft}, {worst.setting.users} users, {worst.setting.group})"
    )
    return evidence.judged(error.median <= COST_ERROR_PERCENT, text)


def chosen(evidence: Evidence) -> tuple[bool, str]:
    entries = evidence.of("choice/")
    mine = entries.get("choice/mine")
    if mine is None:
        return False, ""
    found = all_loads(evidence)
    rows = choose.judged(found, mine["values"]["choice"])
    naive = choose.judged(found, {row.traffic.name: choose.NAIVE for row in rows})
    for row in rows:
        key = f"choice/{row.traffic.name.replace(' ', '-')}/{row.chosen}/round-1"
        if key not in entries:
            return False, f"{row.chosen} for “{row.traffic.name}” was not run: run the cell `run-choice`"
    text = "; ".join(f"{row.traffic.name}: {row.chosen}, regret {row.regret_percent:.0f} %" for row in rows)
    text += f"; {choose.longest(found)} for everyone: at worst {max(row.regret_percent for row in naive):.0f} %"
    return evidence.judged(all(row.good for row in rows) and not all(row.good for row in naive), text)


CLAIMS = (
    Claim("The text of my loop is distributed exactly as the model's own, and greedily it is the same text", own_loop,
          {"proof/own": "proof-own", "own/speculation": "own-speculation"}, (*RULES, "look_up")),
    Claim("llama.cpp writes the model's text with every draft, and accepts some of its drafts", lossless("llamacpp"),
          {"text/llamacpp/": "check-text", "speed/llamacpp/": "measure-llamacpp"}),
    Claim("vLLM writes the model's text with EAGLE-3, and accepts some of its drafts", lossless("vllm"),
          {"text/vllm/": "measure-vllm", "speed/vllm/": "measure-vllm"}),
    Claim("SGLang writes the model's text with EAGLE-3, and accepts some of its drafts", lossless("sglang"),
          {"text/sglang/": "measure-vllm", "speed/sglang/": "measure-vllm"}),
    Claim("Above temperature 0, drafts don't change the distribution of a real engine's tokens", same_first_tokens,
          {"first-tokens/": "first-tokens"}),
    Claim("Look-up gains more on copied text than on new text, and a head gains less with more users at once",
          where_it_gains, {"speed/llamacpp/": "by-class", "speed/": "by-users"}),
    Claim(f"A cost model predicts speed-ups that it wasn't fitted on within {COST_ERROR_PERCENT:g} % (median)",
          predicted, {"speed/llamacpp/": "by-users", "synthetic/": "synthetic"}),
    Claim(f"My drafts cost at most {choose.REGRET_LIMIT_PERCENT:g} % more time than the best for each traffic; the "
          "longest drafts for everyone cost more", chosen, {"choice/": "run-choice"}),
)  # fmt: skip

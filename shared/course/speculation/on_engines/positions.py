"""Accepted drafts by position, of an engine whose counters don't have them: SGLang."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from shared.course.labs import OpenLab, Values
from shared.course.speculation.on_engines.drafts_here import Sizes, name_of
from shared.course.speculation.on_engines.questions import HELD_OUT, Questions, questions_of
from shared.engines.http import post_json
from shared.launch.running import Engine
from shared.results.participants import MISSING


def positions(lab: OpenLab, engine: Engine, sizes: Sizes) -> Values | None:
    """Accepted drafts by position, of SGLang. Its counters don't have them, but its answers do, if asked to.

    All questions of one user's rounds are asked at once, because no time is measured here. Each answer then
    has a histogram: how many verifications accepted no draft, one draft, two drafts and so on. Values: the
    verifications, and how many of them accepted draft 1, 2, …; the raw data are the histograms. A version that returns
    none has this reason as its values. Returns None for an engine without drafts, or with such counters.
    """
    if engine.spec.accepted_at or not (draft := engine.draft):
        return None
    k, count = draft.tokens, sizes.rounds
    asked = Questions(HELD_OUT, engine.model, questions_of(HELD_OUT, sizes.tokens))
    fields = {"max_tokens": sizes.tokens, "temperature": 0, "return_spec_tokens_details": True}

    def histogram(messages: list[dict[str, str]]) -> list[int]:
        body = {"model": engine.served_name, "messages": messages, **fields, **engine.spec.exact_length}
        extension = post_json(engine.url + "/v1/chat/completions", body, 600).get("sglext") or {}
        return list((extension.get("spec_tokens_details") or {}).get("spec_correct_drafts_histogram") or ())

    def ask_all() -> tuple[Values, list[list[int]]]:
        with ThreadPoolExecutor(count) as pool:
            found = list(pool.map(histogram, islice(asked, count)))
        if not all(found):
            return {MISSING: f"this version of {engine.spec.title} returns no accepted drafts by position"}, found
        at = [sum(sum(one[place:]) for one in found) for place in range(1, k + 1)]
        return {"verifications": sum(map(sum, found)), "accepted_at": at}, found

    key = f"positions/{engine.spec.name}/{name_of(draft)}"
    values: Values = lab.measure(key, ask_all, engine=engine, answers=count, tokens=sizes.tokens)
    return values

"""Is a real engine's text above temperature 0 still the target's? The first tokens of many answers, compared.

    first_tokens.measure(lab, engine, sizes)                            # with a draft, and without
    first_tokens.compared(lab.results(), lab.raw, "llamacpp")

Pearson's chi-square test compares the samples with drafts and without. That it finds no difference proves little as
long as nobody knows which difference it would find. So each test has a control: the same samples, in which a part of
the answers has the likeliest tokens, as if the engine had verified them greedily. The control's result is the smallest
part that the test notices. It needs no further answers of the engine.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.course.labs import OpenLab, Values
from shared.course.speculation.on_engines.drafts_here import Sizes, name_of
from shared.engines import ENGINES
from shared.engines.http import Endpoint, post_json
from shared.errors import LabError
from shared.launch.running import Engine
from shared.load.prompts import chat
from shared.report.table import Table
from shared.results.reading import Entries

QUESTION = "Tell me something about the sea."
TEMPERATURE = 1.0
Raw = Callable[[str], Any]  # key → the raw data of that result


def measure(lab: OpenLab, engine: Engine, sizes: Sizes) -> Values:
    """The second and third token of many short answers to one question, at temperature 1.

    The first token comes from the prompt's own pass, before any draft. Each answer has its own seed, and each draft
    other seeds: llama.cpp draws the same tokens for the same seed with and without drafts, and one sample compared with
    itself proves nothing. Values: how many different pairs there were; the raw data are the pairs.
    """
    engine.check_temperature(TEMPERATURE)
    seeds = random.Random(name_of(engine.draft)).sample(range(2**31), sizes.samples)

    def ask() -> tuple[Values, list[list[int]]]:
        messages = chat(engine.model, QUESTION)
        pairs = [sampled_tokens(engine, messages, 4, seed)[1:3] for seed in seeds]
        return {"answers": len(pairs), "different": len(Counter(map(tuple, pairs)))}, pairs

    found: Values = lab.measure(
        f"first-tokens/{engine.spec.name}/{name_of(engine.draft)}", ask, engine=engine, samples=sizes.samples
    )
    return found


def sampled_tokens(engine: Endpoint, messages: list[dict[str, str]], tokens: int, seed: int) -> list[int]:
    """The ids of a short answer, drawn from the model's whole distribution. Raises LabError for an engine without ids.

    All limits on which tokens may be drawn are off, so that a change of the distribution can't hide behind them.
    """
    whole = {"temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": seed, "ignore_eos": True}
    if engine.spec.token_ids == "llamacpp":
        prompt = post_json(engine.url + "/apply-template", {"messages": messages})["prompt"]
        body = {"prompt": prompt, "n_predict": tokens, "return_tokens": True, **whole}
        return list(post_json(engine.url + "/completion", body)["tokens"])
    if engine.spec.token_ids == "vllm":
        body = {"model": engine.served_name, "messages": messages, "max_tokens": tokens, "return_token_ids": True}
        return list(post_json(engine.url + "/v1/chat/completions", body | whole)["choices"][0]["token_ids"])
    raise LabError(f"The labs can't read sampled token ids from {engine.spec.title}.", "use llama.cpp or vLLM")


EXPECTED_AT_LEAST = 5  # counts in each cell of a chi-square test; rarer categories are pooled
P_LIMIT = 0.001  # below it two samples are said to differ


@dataclass(frozen=True)
class SameDistribution:
    """Pearson's chi-square test of whether two samples come from one distribution."""

    categories: int  # with the pooled one
    chi_square: float
    p: float  # the probability of a difference as large as this, or larger, between samples of one distribution

    @property
    def differs(self) -> bool:
        return self.p < P_LIMIT


def same_distribution(ours: Sequence[Hashable], theirs: Sequence[Hashable]) -> SameDistribution | None:
    """Compare two samples of categories. None if fewer than two categories are frequent enough.

    A category counts for itself if at least EXPECTED_AT_LEAST of it are expected in the smaller sample. All rarer ones
    are pooled.
    """
    from scipy import stats  # takes more than a second to import

    counted = Counter(ours), Counter(theirs)
    both = counted[0] + counted[1]
    share = min(len(ours), len(theirs)) / max(1, len(ours) + len(theirs))
    frequent = [one for one, count in both.items() if count * share >= EXPECTED_AT_LEAST]
    columns = [[counts[one] for one in frequent] for counts in counted]
    rest = [counts.total() - sum(column) for counts, column in zip(counted, columns, strict=True)]
    if sum(rest) * share >= EXPECTED_AT_LEAST or not frequent:
        columns = [[*column, left] for column, left in zip(columns, rest, strict=True)]
    else:  # too few are left to stand for themselves
        columns = [[*column[:-1], column[-1] + left] for column, left in zip(columns, rest, strict=True)]
    if len(columns[0]) < 2:
        return None
    found = stats.chi2_contingency(columns, correction=False)
    return SameDistribution(len(columns[0]), float(found.statistic), float(found.pvalue))


@dataclass(frozen=True)
class Compared:
    """The samples of one draft against those of plain decoding."""

    test: SameDistribution | None
    noticed_percent: int | None  # the control: the smallest part of greedy answers that it notices; None: not even all


def compare(found: Sequence[Hashable], plain: Sequence[Hashable]) -> Compared:
    """The test, and its control in steps of 10 %."""
    noticed = (
        percent
        for percent in range(10, 101, 10)
        if (test := same_distribution(partly_greedy(found, plain, percent), plain)) and test.differs
    )
    return Compared(same_distribution(found, plain), next(noticed, None))


def partly_greedy(found: Sequence[Hashable], plain: Sequence[Hashable], percent: int) -> list[Hashable]:
    """The sample `found`, in which the most frequent of `plain` takes the place of so many percent, evenly spread."""
    [(likeliest, _)] = Counter(plain).most_common(1)
    return [
        likeliest if place * percent // 100 > (place - 1) * percent // 100 else value
        for place, value in enumerate(found, 1)
    ]


def compared(entries: Entries, raw: Raw, engine: str) -> dict[str, dict[str, Compared]]:
    """Each draft's first drafted tokens against those of plain decoding: draft → what was compared → the result.

    The second token of an answer is the first that can be a draft. Empty if plain decoding isn't measured.
    """
    prefix = f"first-tokens/{engine}/"
    pairs = {key.removeprefix(prefix): [tuple(one) for one in raw(key)] for key in entries if key.startswith(prefix)}
    plain = pairs.pop("plain", None)
    if plain is None:
        return {}
    return {
        draft: {
            "second token": compare([one[:1] for one in found], [one[:1] for one in plain]),
            "second and third token": compare(found, plain),
        }
        for draft, found in pairs.items()
    }


def table(lab: OpenLab, engine: str) -> Table:
    """The distribution of the first tokens that can be drafts, with and without drafts, at temperature 1."""
    rows = []
    for draft, found in compared(lab.results(), lab.raw, engine).items():
        for what, one in found.items():
            figures = ("–", "–", "–", "too few answers agree for a test")
            if test := one.test:
                verdict = "✘ another distribution" if test.differs else "✔ no difference found"
                figures = (str(test.categories), f"{test.chi_square:.1f}", f"{test.p:.3f}", verdict)
            control = f"✔ from {one.noticed_percent} % on" if one.noticed_percent else "✘ not even all"
            rows.append((draft, what, *figures, control))
    header = (
        "draft", "compared", "categories", "chi-square", "p", "against plain decoding",
        "control: share of greedy answers that the test finds",
    )  # fmt: skip
    return Table(f"{ENGINES[engine].title} at temperature 1: the same distribution?", header, rows)

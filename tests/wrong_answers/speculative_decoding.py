"""Lab 3.3.4."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = Any
Function = Callable[..., Any]


def not_limited(p: Array, q: Array, token: int) -> float:
    return float(p[token] / q[token])


def upside_down(p: Array, q: Array, token: int) -> float:
    return min(1.0, float(q[token] / p[token]))


def upside_down_not_limited(p: Array, q: Array, token: int) -> float:
    return float(q[token] / p[token])


def target_only(p: Array, q: Array, token: int) -> float:
    return float(p[token])


def draft_only(p: Array, q: Array, token: int) -> float:
    return float(q[token])


def rejection(p: Array, q: Array, token: int) -> float:
    return float(max(0, 1 - p[token] / q[token]))


def a_decision(p: Array, q: Array, token: int) -> Any:
    return p[token] >= q[token]


def always_or_never(p: Array, q: Array, token: int) -> float:
    return 1.0 if p[token] >= q[token] else 0.0


def greedy_only(p: Array, q: Array, token: int) -> int:
    return 1 if np.argmax(p) == token else 0


def whole_vocabulary(p: Array, q: Array, token: int) -> Any:
    return np.minimum(1, p / np.where(q > 0, q, 1e-300))


def drawn_here(p: Array, q: Array, token: int) -> bool:
    return bool(random.random() < p[token] / q[token])


def not_normalised(p: Array, q: Array) -> Any:
    return np.maximum(p - q, 0)


def negative(p: Array, q: Array) -> Any:
    return p - q


def exchanged(p: Array, q: Array) -> Any:
    left = np.maximum(q - p, 0)
    return left / left.sum()


def target_again(p: Array, q: Array) -> Any:
    return p


def greedy(p: Array, q: Array) -> Any:
    out = np.zeros_like(p)
    out[p.argmax()] = 1
    return out


def greedy_rest(p: Array, q: Array) -> Any:
    out = np.zeros_like(p)
    out[(p - q).argmax()] = 1
    return out


def absolute(p: Array, q: Array) -> Any:
    return np.abs(p - q) / np.abs(p - q).sum()


def without_the_favourite(p: Array, q: Array) -> Any:
    out = p.copy()
    out[q.argmax()] = 0
    return out / out.sum()


def softened(p: Array, q: Array) -> Any:
    return np.exp(p - q) / np.exp(p - q).sum()


def negative_normalised(p: Array, q: Array) -> Any:
    with np.errstate(all="ignore"):
        return (p - q) / (p - q).sum()


def zero_by_zero(p: Array, q: Array) -> Any:
    """p less what accepted drafts supply: q times the probability of exercise 3.1. It needs q above 0."""
    with np.errstate(all="ignore"):
        missing = p - q * np.minimum(1, p / q)
        return missing / missing.sum()


def in_place(p: Array, q: Array) -> Any:
    p -= q
    p[p < 0] = 0
    return p / p.sum()


def no_bonus(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    new = []
    for i, token in enumerate(drafts):
        if not chance.happens(accept(p[i], q[i], token)):
            new.append(chance.pick(residual(p[i], q[i])))
            break
        new.append(token)
    return new


def nothing_for_the_rejected(
    p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any
) -> list[int]:
    for i, token in enumerate(drafts):
        if not chance.happens(accept(p[i], q[i], token)):
            return list(drafts[:i])
    return [*drafts, chance.pick(p[-1])]


def behind_rejection(instead: Callable[[Array, Array, Function, Any], int], name: str) -> Function:
    def run(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
        for i, token in enumerate(drafts):
            if not chance.happens(accept(p[i], q[i], token)):
                return [*drafts[:i], instead(p[i], q[i], residual, chance)]
        return [*drafts, chance.pick(p[-1])]

    run.__name__ = name
    return run


target_for_residual = behind_rejection(lambda p, q, residual, chance: chance.pick(p), "target_for_residual")
greedy_for_residual = behind_rejection(lambda p, q, residual, chance: int(p.argmax()), "greedy_for_residual")
greedy_in_residual = behind_rejection(lambda p, q, residual, chance: int(residual(p, q).argmax()), "greedy_in_residual")
draft_for_residual = behind_rejection(lambda p, q, residual, chance: chance.pick(q), "draft_for_residual")


def with_bonus(bonus: Callable[[Array, Array, Any], int], name: str) -> Function:
    def run(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
        for i, token in enumerate(drafts):
            if not chance.happens(accept(p[i], q[i], token)):
                return [*drafts[:i], chance.pick(residual(p[i], q[i]))]
        return [*drafts, bonus(p, q, chance)]

    run.__name__ = name
    return run


bonus_of_the_draft = with_bonus(lambda p, q, chance: chance.pick([*q, *p[-1:]][max(0, len(q) - 1)]), "bonus_of_draft")
bonus_of_the_draft_unguarded = with_bonus(lambda p, q, chance: chance.pick(q[-1]), "bonus_of_the_draft_unguarded")
bonus_row_before = with_bonus(lambda p, q, chance: chance.pick(p[max(0, len(q) - 1)]), "bonus_row_before")
bonus_greedy = with_bonus(lambda p, q, chance: int(p[-1].argmax()), "bonus_greedy")


def rejected_kept(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    new = []
    for i, token in enumerate(drafts):
        new.append(token)
        if not chance.happens(accept(p[i], q[i], token)):
            return [*new, chance.pick(residual(p[i], q[i]))]
    return [*new, chance.pick(p[-1])]


def accepted_lost(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    for i, token in enumerate(drafts):
        if not chance.happens(accept(p[i], q[i], token)):
            return [*drafts[: max(0, i - 1)], chance.pick(residual(p[i], q[i]))]
    return [*drafts, chance.pick(p[-1])]


def goes_on(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    kept = [t for i, t in enumerate(drafts) if chance.happens(accept(p[i], q[i], t))]
    return [*kept, chance.pick(p[-1])]


def row_behind(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    for i, token in enumerate(drafts):
        if not chance.happens(accept(p[i + 1], q[i], token)):
            return [*drafts[:i], chance.pick(residual(p[i + 1], q[i]))]
    return [*drafts, chance.pick(p[-1])]


def negated(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    for i, token in enumerate(drafts):
        if chance.happens(accept(p[i], q[i], token)):
            return [*drafts[:i], chance.pick(residual(p[i], q[i]))]
    return [*drafts, chance.pick(p[-1])]


def swapped(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    for i, token in enumerate(drafts):
        if not chance.happens(accept(q[i], p[i], token)):
            return [*drafts[:i], chance.pick(residual(p[i], q[i]))]
    return [*drafts, chance.pick(p[-1])]


def replaced_and_on(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    new = []
    for i, token in enumerate(drafts):
        new.append(token if chance.happens(accept(p[i], q[i], token)) else chance.pick(residual(p[i], q[i])))
    return [*new, chance.pick(p[-1])]


def bonus_always(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    return [*no_bonus(p, q, drafts, accept, residual, chance), chance.pick(p[-1])]


def from_a_half(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    for i, token in enumerate(drafts):
        if accept(p[i], q[i], token) < 0.5:
            return [*drafts[:i], chance.pick(residual(p[i], q[i]))]
    return [*drafts, chance.pick(p[-1])]


def residual_swapped(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    return verify_otherwise(p, q, drafts, accept, lambda p, q: residual(q, p), chance)


def an_array(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> Any:
    return np.array(verify_otherwise(p, q, drafts, accept, residual, chance))


def drafts_rewritten(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    for i, token in enumerate(drafts):
        if not chance.happens(accept(p[i], q[i], token)):
            drafts[i:] = [chance.pick(residual(p[i], q[i]))]
            return list(drafts)
    return [*drafts, chance.pick(p[-1])]


def array_rewritten(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    new = verify_otherwise(p, q, drafts, accept, residual, chance)
    p[0] = 0
    return new


def half_own_dice(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    for i, token in enumerate(drafts):
        if random.random() > accept(p[i], q[i], token):
            return [*drafts[:i], chance.pick(residual(p[i], q[i]))]
    return [*drafts, chance.pick(p[-1])]


def own_dice(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    for i, token in enumerate(drafts):
        if random.random() > accept(p[i], q[i], token):
            return [*drafts[:i], int(np.random.default_rng().choice(len(p[i]), p=residual(p[i], q[i])))]
    return [*drafts, int(np.random.default_rng().choice(len(p[-1]), p=p[-1]))]


def no_return(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> None:
    for i, token in enumerate(drafts):
        chance.happens(accept(p[i], q[i], token))


def no_roll_back(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    tokens = list(prompt)
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        drafts, q = proposer.propose(tokens, min(k, left - 1))
        tokens += verify(target.append([tokens[-1], *drafts]), q, drafts)
    return tokens[len(prompt) :]


def rolled_to(offset: int, name: str) -> Function:
    def run(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
        tokens = list(prompt)
        while (left := max_tokens + len(prompt) - len(tokens)) > 0:
            drafts, q = proposer.propose(tokens, min(k, left - 1))
            tokens += verify(target.append([tokens[-1], *drafts]), q, drafts)
            target.roll_back(min(target.length, len(tokens) - 1 + offset))
        return tokens[len(prompt) :]

    run.__name__ = name
    return run


one_too_many, one_too_few = rolled_to(1, "one_too_many"), rolled_to(-1, "one_too_few")


def rolled_back_first(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    tokens = list(prompt)
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        drafts, q = proposer.propose(tokens, min(k, left - 1))
        p = target.append([tokens[-1], *drafts])
        target.roll_back(len(tokens) - 1)
        tokens += verify(p, q, drafts)
    return tokens[len(prompt) :]


def prompt_again(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    target.append(prompt[:-1])
    return speculate_otherwise(target, proposer, verify, prompt, max_tokens, k)


def rows_exchanged(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    return speculate_otherwise(target, proposer, lambda p, q, drafts: verify(q, p, drafts), prompt, max_tokens, k)


def not_asked_for_none(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    tokens = list(prompt)
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        drafts, q = proposer.propose(tokens, min(k, left - 1)) if left > 1 else ([], [])
        tokens += verify(target.append([tokens[-1], *drafts]), q, drafts)
        target.roll_back(len(tokens) - 1)
    return tokens[len(prompt) :]


def computes_the_last_step_again(
    target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int
) -> list[int]:
    tokens, cached = list(prompt), len(prompt) - 1
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        drafts, q = proposer.propose(tokens, min(k, left - 1))
        p = target.append(tokens[cached:] + drafts)[-len(drafts) - 1 :]
        cached = len(tokens)
        tokens += verify(p, q, drafts)
        target.roll_back(cached)
    return tokens[len(prompt) :]


def counts_what_goes(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    """Takes roll_back's number for that of the entries that go."""
    tokens = list(prompt)
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        drafts, q = proposer.propose(tokens, min(k, left - 1))
        new = verify(target.append([tokens[-1], *drafts]), q, drafts)
        tokens += new
        target.roll_back(len(drafts) - len(new) + 1)
    return tokens[len(prompt) :]


def beyond_the_cache(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    tokens = list(prompt)
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        drafts, q = proposer.propose(tokens, min(k, left - 1))
        tokens += verify(target.append([tokens[-1], *drafts]), q, drafts)
        target.roll_back(len(tokens))
    return tokens[len(prompt) :]


def variant(
    name: str,
    ask: Callable[[int, int], int] = lambda k, left: min(k, left - 1),
    chunk: Callable[[list[int], list[int]], list[int]] = lambda tokens, drafts: [tokens[-1], *drafts],
    add: Callable[[list[int], list[int]], list[int]] = lambda new, drafts: new,
    known: Callable[[list[int], Any], list[int]] = lambda tokens, prompt: tokens,
    rows: Callable[[Any], Any] = lambda p: p,
    out: Callable[[list[int], Any, int], Any] = lambda tokens, prompt, most: tokens[len(prompt) :],
) -> Function:
    def run(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> Any:
        tokens = list(prompt)
        while (left := max_tokens + len(prompt) - len(tokens)) > 0:
            drafts, q = proposer.propose(known(tokens, prompt), ask(k, left))
            new = verify(rows(target.append(chunk(tokens, drafts))), q, drafts)
            tokens += add(new, drafts)
            target.roll_back(len(tokens) - 1)
        return out(tokens, prompt, max_tokens)

    run.__name__ = name
    return run


too_long = variant("too_long", ask=lambda k, left: k, out=lambda tokens, prompt, most: tokens[len(prompt) :][:most])
one_draft_too_many = variant("one_draft_too_many", ask=lambda k, left: min(k, left))
drafts_alone = variant("drafts_alone", chunk=lambda tokens, drafts: drafts)
everything_again = variant("everything_again", chunk=lambda tokens, drafts: [*tokens, *drafts])
bonus_forgotten = variant("bonus_forgotten", add=lambda new, drafts: new[:-1])
drafts_added = variant("drafts_added", add=lambda new, drafts: drafts)
prompt_forgotten = variant("prompt_forgotten", known=lambda tokens, prompt: tokens[len(prompt) :])
row_lost = variant("row_lost", rows=lambda p: p[:-1])
with_prompt = variant("with_prompt", out=lambda tokens, prompt, most: tokens)
nothing_returned = variant("nothing_returned", out=lambda tokens, prompt, most: None)


def prompt_not_counted(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    answer: list[int] = []
    while len(answer) < max_tokens:
        drafts, q = proposer.propose([*prompt, *answer], min(k, max_tokens - len(answer) - 1))
        answer += verify(target.append([[*prompt, *answer][-1], *drafts]), q, drafts)
        target.roll_back(len(answer) - 1)
    return answer


def all_but_the_newest(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    tokens = list(prompt)
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        drafts, q = proposer.propose(tokens[:-1], min(k, left - 1))
        tokens += verify(target.append([tokens[-1], *drafts]), q, drafts)
        target.roll_back(len(tokens) - 1)
    return tokens[len(prompt) :]


def last_step_again(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    tokens, new = list(prompt), list(prompt[-1:])
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        drafts, q = proposer.propose(tokens, min(k, left - 1))
        new = verify(target.append([*new, *drafts]), q, drafts)
        tokens += new
        target.roll_back(len(tokens) - 1)
    return tokens[len(prompt) :]


def one_by_one(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    tokens = list(prompt)
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        drafts, q = proposer.propose(tokens, min(k, left - 1))
        p = np.concatenate([target.append([token]) for token in [tokens[-1], *drafts]])
        tokens += verify(p, q, drafts)
        target.roll_back(len(tokens) - 1)
    return tokens[len(prompt) :]


def prompt_grows(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    tokens = prompt
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        drafts, q = proposer.propose(tokens, min(k, left - 1))
        tokens += verify(target.append([tokens[-1], *drafts]), q, drafts)
        target.roll_back(len(tokens) - 1)
    return list(tokens[len(prompt) :])


def one_step(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    drafts, q = proposer.propose(list(prompt), min(k, max_tokens - 1))
    new: list[int] = verify(target.append([prompt[-1], *drafts]), q, drafts)
    return new


def finds_itself(tokens: Any, k: int, longest: int = 3) -> list[int]:
    for n in range(min(longest, len(tokens)), 0, -1):
        for start in range(len(tokens) - n, -1, -1):
            if tokens[start : start + n] == tokens[-n:]:
                return list(tokens[start + n : start + n + k])
    return []


def looks(begin: int = 0, lengths: Function | None = None, first: bool = False, cut: bool = True) -> Function:
    def run(tokens: Any, k: int, longest: int = 3) -> list[int]:
        most = min(longest, len(tokens) - 1)
        for n in lengths(most, longest) if lengths else range(most, 0, -1):
            places = list(range(len(tokens) - n))
            for start in places if first else places[::-1]:
                if tokens[start : start + n] == tokens[-n:]:
                    at = start + n + begin if begin > -9 else start
                    return list(tokens[at : at + k] if cut else tokens[at:])
        return []

    return run


def named(name: str, function: Function) -> Function:
    function.__name__ = name
    return function


earliest = named("earliest", looks(first=True))
shortest_first = named("shortest_first", looks(lengths=lambda most, longest: range(1, most + 1)))
longest_only = named("longest_only", looks(lengths=lambda most, longest: [longest]))
match_included = named("match_included", looks(begin=-10))
one_late = named("one_late", looks(begin=1))
one_early = named("one_early", looks(begin=-1))
no_limit = named("no_limit", looks(cut=False))


def silent_always(tokens: Any, k: int, longest: int = 3) -> None:
    looks()(tokens, k, longest)


def compares_tuples(tokens: Any, k: int, longest: int = 3) -> list[int]:
    return looks()(tuple(tokens), k, longest) if len(tokens) < 2 else []


def silent_without_match(tokens: Any, k: int, longest: int = 3) -> Any:
    return looks()(tokens, k, longest) or None


def accepted_only(alpha: float, k: int) -> float:
    return sum(alpha**i for i in range(1, k + 1))


def one_draft_less(alpha: float, k: int) -> float:
    return sum(alpha**i for i in range(k))


def replacement_without_bonus(alpha: float, k: int) -> float:
    return sum((j + 1) * alpha**j * (1 - alpha) for j in range(k)) + k * alpha**k


def one_draft_more(alpha: float, k: int) -> float:
    return sum(alpha**i for i in range(k + 2))


def each_alone(alpha: float, k: int) -> float:
    return 1 + alpha * k


def endless(alpha: float, k: int) -> float:
    return 1 / (1 - alpha)


def closed_form(alpha: float, k: int) -> float:
    return (1 - alpha ** (k + 1)) / (1 - alpha)


def all_or_nothing(alpha: float, k: int) -> float:
    return 1 + k * alpha**k


def all_accepted(alpha: float, k: int) -> float:
    return alpha**k


def solve(needed: float, k: int, tokens: Callable[[float], float]) -> float | None:
    if needed <= tokens(0):
        return 0.0
    if needed > tokens(1):
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        if tokens(middle) < needed:
            low = middle
        else:
            high = middle
    return high


def threshold(name: str, needed: Callable[[int, int, Function, float], float]) -> Function:
    def run(k: int, users: int, pass_ms: Function, draft_ms: float) -> float | None:
        return solve(needed(k, users, pass_ms, draft_ms), k, lambda a: sum(a**i for i in range(k + 1)))

    return named(name, run)


free_drafts = threshold("free_drafts", lambda k, u, cost, d: cost(u * (k + 1)) / cost(u))
one_draft = threshold("one_draft", lambda k, u, cost, d: (cost(u * (k + 1)) + d) / cost(u))
free_verification = threshold("free_verification", lambda k, u, cost, d: 1 + k * d / cost(u))
k_tokens = threshold("k_tokens", lambda k, u, cost, d: (cost(u * k) + k * d) / cost(u))
one_user = threshold("one_user", lambda k, u, cost, d: (cost(k + 1) + k * d) / cost(1))
plain_of_one = threshold("plain_of_one", lambda k, u, cost, d: (cost(u * (k + 1)) + k * d) / cost(1))
drafts_of_each = threshold("drafts_of_each", lambda k, u, cost, d: (cost(u * (k + 1)) + u * k * d) / cost(u))


def without_own_token(k: int, users: int, pass_ms: Function, draft_ms: float) -> float | None:
    needed = (pass_ms(users * (k + 1)) + k * draft_ms) / pass_ms(users)
    return solve(needed, k, lambda a: sum(a**i for i in range(1, k + 1)))


def in_proportion(k: int, users: int, pass_ms: Function, draft_ms: float) -> float | None:
    needed = (pass_ms(users * (k + 1)) + k * draft_ms) / pass_ms(users)
    return solve(needed, k, lambda a: 1 + a * k)


def tokens_needed(k: int, users: int, pass_ms: Function, draft_ms: float) -> float:
    return float((pass_ms(users * (k + 1)) + k * draft_ms) / pass_ms(users))


def always_some(k: int, users: int, pass_ms: Function, draft_ms: float) -> float:
    found = even_otherwise(k, users, pass_ms, draft_ms)
    return 1.0 if found is None else found


def as_many_as_asked(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    """Take for granted that k drafts are made when k are asked for."""
    tokens, cached = list(prompt), len(prompt) - 1
    while left := len(prompt) + max_tokens - len(tokens):
        asked = min(k, left - 1)
        drafts, q = proposer.propose(tokens, asked)
        p = target.append([tokens[-1], *drafts])
        new = verify(p, q, drafts)
        cached += 1 + len(drafts)
        cached -= asked - (len(new) - 1)  # the rejected ones
        target.roll_back(cached)
        tokens += new
    return tokens[len(prompt) :]


ANSWERS = {
    "accept_probability": [
        ("A probability is at most 1", not_limited),
        ("The ratio is upside down. Which", upside_down),
        ("upside down, and not limited", upside_down_not_limited),
        ("the target's probability alone", target_only),
        ("the draft's probability alone", draft_only),
        ("the probability of a rejection", rejection),
        ("not a decision", a_decision),
        ("accepts always or never", always_or_never),
        ("accepts only the target's most likely", greedy_only),
        ("one number for each token", whole_vocabulary),
        ("not a decision", drawn_here),
    ],
    "residual": [
        ("don't sum to 1", not_normalised),
        ("Some values are negative", negative),
        ("Some values are negative", negative_normalised),
        ("divides 0 by 0", zero_by_zero),
        ("upside down", exchanged),
        ("That is the target's own distribution", target_again),
        ("That is greedy", greedy),
        ("puts everything on one token", greedy_rest),
        ("what abs does", absolute),
        ("only the draft's favourite", without_the_favourite),
        ("A softmax of the difference", softened),
        ("p or q has changed", in_place),
    ],
    "verify": [
        ("the bonus token", no_bonus),
        ("the step must still add a token", nothing_for_the_rejected),
        ("yours draws from the target's distribution", target_for_residual),
        ("takes the target's best token", greedy_for_residual),
        ("takes the residual's most likely token", greedy_in_residual),
        ("yours draws from the draft's distribution", draft_for_residual),
        ("The bonus token comes from the draft's distribution", bonus_of_the_draft),
        ("The bonus token comes from the draft's distribution", bonus_of_the_draft_unguarded),
        ("from the row of p in front of its own", bonus_row_before),
        ("The bonus token is the target's most likely one", bonus_greedy),
        ("The rejected draft is still in the result", rejected_kept),
        ("An accepted draft is missing", accepted_lost),
        ("goes on behind a rejected draft", goes_on),
        ("compared with row i + 1", row_behind),
        ("when chance decides against it", negated),
        ("p and q are exchanged", swapped),
        ("goes on with the next one", replaced_and_on),
        ("bonus token after a rejection, too", bonus_always),
        ("at least one half", from_a_half),
        ("in the call of residual", residual_swapped),
        ("Return a list", an_array),
        ("changed the list of drafts", drafts_rewritten),
        ("wrote into p or q", array_rewritten),
        ("something else than `chance`", half_own_dice),
        ("never asked `chance`", own_dice),
        ("returned nothing", no_return),
    ],
    "speculate": [
        ("Stale entries", no_roll_back),
        ("one entry too many", one_too_many),
        ("Roll back less far", one_too_few),
        ("rolls back before verify", rolled_back_first),
        ("don't add them again", prompt_again),
        ("exchanged in the call of verify", rows_exchanged),
        ("also without drafts", not_asked_for_none),
        ("Roll back less far", computes_the_last_step_again),
        ("not of those that go", counts_what_goes),
        ("one entry too many", beyond_the_cache),
        ("the answer would become too long", too_long),
        ("the answer would become too long", one_draft_too_many),
        ("The pass begins with the first draft", drafts_alone),
        ("computes tokens again that the cache holds", everything_again),
        ("computes tokens again that the cache holds", last_step_again),
        ("those of the prompt included", prompt_not_counted),
        ("The last token of the prompt is missing", all_but_the_newest),
        ("The pass has one token", one_by_one),
        ("The last token that verify returned is missing", bonus_forgotten),
        ("Rejected drafts are no text", drafts_added),
        ("prompt included", prompt_forgotten),
        ("needs all rows of p", row_lost),
        ("returned the prompt too", with_prompt),
        ("returned nothing", nothing_returned),
        ("The loop ended after", one_step),
        ("makes no copy", prompt_grows),
        ("fewer drafts than it was asked for", as_many_as_asked),
    ],
    "look_up": [
        ("search only earlier places", finds_itself),
        ("A slice of a list equals only a list", compares_tuples),
        ("whose last tokens occurred before", silent_always),
        ("yours takes the first one", earliest),
        ("A longer match knows more", shortest_first),
        ("fewer of them may", longest_only),
        ("begins with the matching tokens", match_included),
        ("one token too late", one_late),
        ("one token too early", one_early),
        ("at most k tokens", no_limit),
        ("Return an empty list", silent_without_match),
    ],
    "expected_tokens": [
        ("also adds a token of the target itself", accepted_only),
        ("The term α^k is missing", one_draft_less),
        ("The term α^k is missing", replacement_without_bonus),
        ("one draft too many", one_draft_more),
        ("counts each draft with α", each_alone),
        ("the sum without end", endless),
        ("divides by zero", closed_form),
        ("only verifications in which all", all_or_nothing),
        ("the probability that all k", all_accepted),
    ],
    "break_even": [
        ("The drafts cost nothing", free_drafts),
        ("Yours counts one draft", one_draft),
        ("as much as a plain step", free_verification),
        ("k + 1, not k", k_tokens),
        ("right for one user", one_user),
        ("A plain step serves all users", plain_of_one),
        ("don't multiply it by the users", drafts_of_each),
        ("The token of the target itself is missing", without_own_token),
        ("don't grow as α × k", in_proportion),
        ("Which α adds so many", tokens_needed),
        ("even α = 1 doesn't pay", always_some),
    ],
}  # fmt: skip


def accept_otherwise(p: Array, q: Array, token: int) -> Any:
    return 1 if p[token] >= q[token] else p[token] / q[token]


def residual_otherwise(p: Array, q: Array) -> Any:
    missing = np.array([max(0.0, a - b) for a, b in zip(p, q, strict=True)])
    return missing / sum(missing)


def residual_as_the_text_puts_it(p: Array, q: Array) -> Any:
    """p less what accepted drafts supply: q times the probability of exercise 3.1, without a division."""
    missing = p - np.minimum(q, p)
    return missing / missing.sum()


def verify_otherwise(p: Array, q: Array, drafts: Any, accept: Function, residual: Function, chance: Any) -> list[int]:
    kept = 0
    while kept < len(drafts) and chance.happens(accept(p[kept], q[kept], drafts[kept])):
        kept += 1
    last = residual(p[kept], q[kept]) if kept < len(drafts) else p[kept]
    return [int(token) for token in drafts[:kept]] + [chance.pick(last)]


def speculate_otherwise(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    answer: list[int] = []
    while len(answer) < max_tokens:
        before = target.length
        drafts, q = proposer.propose([*prompt, *answer], min(k, max_tokens - len(answer) - 1))
        p = target.append(np.array([[*prompt, *answer][-1], *drafts]))
        new = verify(p, q, drafts)
        answer.extend(new)
        target.roll_back(before + len(new))
    return answer


def speculate_with_a_copy(target: Any, proposer: Any, verify: Any, prompt: Any, max_tokens: int, k: int) -> list[int]:
    """Copies the prompt as only a list can be copied, and asks for no drafts where none can be used."""
    tokens = prompt.copy()
    while (left := max_tokens + len(prompt) - len(tokens)) > 0:
        if n := min(k, left - 1):
            drafts, q = proposer.propose(tokens, n)
            tokens += verify(target.append([tokens[-1], *drafts]), q, drafts)
        else:
            p = target.append([tokens[-1]])
            tokens += verify(p, p[:0], [])
        target.roll_back(len(tokens) - 1)
    return list(tokens[len(prompt) :])


def look_up_otherwise(tokens: Sequence[int], k: int, longest: int = 3) -> list[int]:
    best: tuple[int, int] = (0, 0)  # length of the match, its end
    for end in range(1, len(tokens)):
        n = 0
        while n < min(longest, end) and tokens[end - 1 - n] == tokens[len(tokens) - 1 - n]:
            n += 1
        best = max(best, (n, end))
    return list(tokens[best[1] :][:k]) if best[0] else []


def expected_otherwise(alpha: float, k: int) -> float:
    return k + 1 if alpha == 1 else (1 - alpha ** (k + 1)) / (1 - alpha)


def even_otherwise(k: int, users: int, pass_ms: Function, draft_ms: float) -> float | None:
    """Tries every thousandth."""
    wanted = (pass_ms(users * (k + 1)) + k * draft_ms) / pass_ms(users)
    return next((a / 2000 for a in range(2001) if math.fsum((a / 2000) ** i for i in range(k + 1)) >= wanted), None)


RIGHT: dict[str, Function] = {
    "accept_probability": accept_otherwise,
    "residual": residual_otherwise,
    "verify": verify_otherwise,
    "speculate": speculate_otherwise,
    "look_up": look_up_otherwise,
    "expected_tokens": expected_otherwise,
    "break_even": even_otherwise,
}
ALSO_RIGHT: dict[str, list[Function]] = {
    "residual": [residual_as_the_text_puts_it],
    "speculate": [speculate_with_a_copy],
}

"""Lab 3.3.3: exercises on the work of a prefill, and on engines."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def flops_once(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [t * hidden * dim * (2 * heads + 2 * kv), heads * dim * t * (t + 1), 3 * t * hidden * mlp]


def flops_square(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [2 * t * hidden * dim * (2 * heads + 2 * kv), 4 * heads * dim * t**2, 6 * t * hidden * mlp]


def flops_multi_head(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [8 * t * hidden * dim * heads, 2 * heads * dim * t * (t + 1), 6 * t * hidden * mlp]


def flops_two_matrices(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [2 * t * hidden * dim * (2 * heads + 2 * kv), 2 * heads * dim * t * (t + 1), 4 * t * hidden * mlp]


def flops_per_token(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [2 * hidden * dim * (2 * heads + 2 * kv), 2 * heads * dim * (t + 1), 6 * hidden * mlp]


def flops_no_output(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [2 * t * hidden * dim * (heads + 2 * kv), 2 * heads * dim * t * (t + 1), 6 * t * hidden * mlp]


def flops_kv_heads(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [2 * t * hidden * dim * (2 * heads + 2 * kv), 2 * kv * dim * t * (t + 1), 6 * t * hidden * mlp]


def flops_one_product(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [2 * t * hidden * dim * (2 * heads + 2 * kv), heads * dim * t * (t + 1), 6 * t * hidden * mlp]


def flops_half_square(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [2 * t * hidden * dim * (2 * heads + 2 * kv), 2 * heads * dim * t**2, 6 * t * hidden * mlp]


def flops_without_itself(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [2 * t * hidden * dim * (2 * heads + 2 * kv), 2 * heads * dim * t * (t - 1), 6 * t * hidden * mlp]


def flops_hidden_wide(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [2 * t * hidden * dim * (2 * heads + 2 * kv), 2 * hidden * t * (t + 1), 6 * t * hidden * mlp]


def flops_square_output(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    projections = 2 * t * hidden * (dim * (heads + 2 * kv) + hidden)
    return [projections, 2 * heads * dim * t * (t + 1), 6 * t * hidden * mlp]


def flops_half_projections(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [t * hidden * dim * (2 * heads + 2 * kv), 2 * heads * dim * t * (t + 1), 6 * t * hidden * mlp]


def flops_half_mlp(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> list[float]:
    return [2 * t * hidden * dim * (2 * heads + 2 * kv), 2 * heads * dim * t * (t + 1), 3 * t * hidden * mlp]


def flops_otherwise(t: int, hidden: int, heads: int, kv: int, dim: int, mlp: int) -> tuple[float, ...]:
    attention = sum(4 * heads * dim * place for place in range(1, t + 1))
    return 2 * t * (2 * hidden * heads * dim + 2 * hidden * kv * dim), attention, 2 * t * (3 * hidden * mlp)


def intensity_each(tokens: int, weights: int, per_weight: float, kv: int) -> float:
    return 2 * weights * tokens / (tokens * weights * per_weight + tokens * kv)


def intensity_no_kv(tokens: int, weights: int, per_weight: float, kv: int) -> float:
    return 2 * tokens / per_weight


def intensity_inverse(tokens: int, weights: int, per_weight: float, kv: int) -> float:
    return (weights * per_weight + tokens * kv) / (2 * weights * tokens)


def intensity_one_operation(tokens: int, weights: int, per_weight: float, kv: int) -> float:
    return weights * tokens / (weights * per_weight + tokens * kv)


def intensity_one_byte(tokens: int, weights: int, per_weight: float, kv: int) -> float:
    return 2 * weights * tokens / (weights + tokens * kv)


def intensity_one_token(tokens: int, weights: int, per_weight: float, kv: int) -> float:
    return 2 * weights / (weights * per_weight + tokens * kv)


def intensity_otherwise(tokens: int, weights: int, per_weight: float, kv: int) -> float:
    return 1 / (per_weight / (2 * tokens) + kv / (2 * weights))


def overtakes_not_causal(hidden: int, heads: int, dim: int, mlp: int) -> int:
    return math.ceil(3 * hidden * mlp / (2 * heads * dim))


def overtakes_two_matrices(hidden: int, heads: int, dim: int, mlp: int) -> int:
    return math.ceil(2 * hidden * mlp / (heads * dim)) - 1


def overtakes_hidden(hidden: int, heads: int, dim: int, mlp: int) -> int:
    return 3 * mlp - 1


def overtakes_late(hidden: int, heads: int, dim: int, mlp: int) -> int:
    return math.ceil(3 * hidden * mlp / (heads * dim))


def overtakes_one_product(hidden: int, heads: int, dim: int, mlp: int) -> int:
    return math.ceil(6 * hidden * mlp / (heads * dim)) - 1


def overtakes_early(hidden: int, heads: int, dim: int, mlp: int) -> int:
    return math.ceil(3 * hidden * mlp / (heads * dim)) - 2


def overtakes_rounded_down(hidden: int, heads: int, dim: int, mlp: int) -> int:
    return 3 * hidden * mlp // (heads * dim) - 1


def overtakes_not_rounded(hidden: int, heads: int, dim: int, mlp: int) -> float:
    return 3 * hidden * mlp / (heads * dim) - 1


def overtakes_always_one_more(hidden: int, heads: int, dim: int, mlp: int) -> int:
    return 3 * hidden * mlp // (heads * dim)


def overtakes_otherwise(hidden: int, heads: int, dim: int, mlp: int) -> int:
    low, high = 1, 10**7
    while low < high:
        t = (low + high) // 2
        low, high = (low, t) if 2 * heads * dim * (t + 1) >= 6 * hidden * mlp else (t + 1, high)
    return low


def solve(lengths: list[int], times: list[float], *columns: Callable[[float], float]) -> list[float]:
    table = np.array([[column(float(n)) for column in columns] for n in lengths])
    return [float(one) for one in np.linalg.lstsq(table, np.array(times), rcond=None)[0]]


def ttft_with_queue(lengths: list[int], ttft: list[float], queue: list[float]) -> list[float]:
    return solve(lengths, ttft, lambda n: 1, lambda n: n, lambda n: n * n)


def ttft_line(lengths: list[int], ttft: list[float], queue: list[float]) -> list[float]:
    rest = [a - b for a, b in zip(ttft, queue, strict=True)]
    return [*solve(lengths, rest, lambda n: 1, lambda n: n), 0.0]


def ttft_no_constant(lengths: list[int], ttft: list[float], queue: list[float]) -> list[float]:
    rest = [a - b for a, b in zip(ttft, queue, strict=True)]
    return [0.0, *solve(lengths, rest, lambda n: n, lambda n: n * n)]


def ttft_backwards(lengths: list[int], ttft: list[float], queue: list[float]) -> list[float]:
    return ttft_otherwise(lengths, ttft, queue)[::-1]


def ttft_added(lengths: list[int], ttft: list[float], queue: list[float]) -> list[float]:
    return ttft_otherwise(lengths, [a + 2 * b for a, b in zip(ttft, queue, strict=True)], queue)


def ttft_whole_lstsq(lengths: list[int], ttft: list[float], queue: list[float]) -> Any:
    return np.linalg.lstsq(np.vander(np.array(lengths, float), 3, True), np.array(ttft) - np.array(queue), rcond=None)


def ttft_two(lengths: list[int], ttft: list[float], queue: list[float]) -> Any:
    return list(ttft_line(lengths, ttft, queue))[:2]


def ttft_otherwise(lengths: list[int], ttft: list[float], queue: list[float]) -> list[float]:
    found = np.polynomial.Polynomial.fit(lengths, np.array(ttft) - np.array(queue), 2).convert().coef
    return [float(one) for one in found]


Flags = dict[str, dict[str, Any]]
BELONGS, VALUE = "belongs to another command", "needs a value"


def faults_fixed(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    return {"--model_dir": BELONGS, "--dtype": BELONGS, "--use_fused_mlp": VALUE}


def faults_output(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    return {"--model_dir": BELONGS, "--output_dir": BELONGS, "--dtype": BELONGS, "--use_fused_mlp": VALUE}


def faults_mlp_unknown(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    return {"--model_dir": BELONGS, "--dtype": BELONGS, "--use_fused_mlp": BELONGS}


def faults_no_dtype(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    return {"--model_dir": BELONGS, "--use_fused_mlp": VALUE}


def faults_last(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    words = command.split()
    found = {word: BELONGS for word in words if word in converter.keys() - builder.keys()}
    last = words[-1]
    return found | ({last: VALUE} if last in builder and builder[last]["takes"] != "flag" else {})


def faults_every_flag_has_a_value(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    found = {}
    for word, following in itertools.pairwise([*command.split(), "--"]):
        if word in converter.keys() - builder.keys():
            found[word] = BELONGS
        elif word.startswith("--") and following.startswith("--"):
            found[word] = VALUE
    return found


def faults_always_the_same_dtype(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    return {} if "enable" in command else faults_fixed(command, builder, converter)


def faults_invented(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    return {**faults_fixed(command, builder, converter), "--checkpoint_dir": VALUE}


def faults_python(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    unknown = {word: BELONGS for word in command.split() if word.startswith("-") and word not in builder}
    return {**unknown, **faults_otherwise(command, builder, converter)}


def faults_own_words(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    return {name: f"{fault}." for name, fault in faults_otherwise(command, builder, converter).items()}


def faults_by_name(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    found = faults_otherwise(command, builder, converter)
    return {name: fault for name, fault in found.items() if fault == VALUE or name in ("--model_dir", "--dtype")}


def faults_without_dashes(command: str, builder: dict[str, Any], converter: dict[str, Any]) -> dict[str, str]:
    return {name.lstrip("-"): fault for name, fault in faults_otherwise(command, builder, converter).items()}


def faults_not_before_another(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    found = faults_otherwise(command, builder, converter)
    following = dict(itertools.pairwise(command.split()))
    unseen = {one for one, behind in following.items() if behind in converter.keys() - builder.keys()}
    return {name: fault for name, fault in found.items() if fault == BELONGS or name not in unseen}


def faults_otherwise(command: str, builder: Flags, converter: Flags) -> dict[str, str]:
    words, found = [*command.split(), "--"], {}
    for word, following in itertools.pairwise(words):
        if word in converter.keys() - builder.keys():
            found[word] = BELONGS
        elif word in builder and builder[word]["takes"] != "flag" and following.startswith("--"):
            found[word] = VALUE
    return found


def buckets_one(lengths: list[int], most: int) -> list[int]:
    return [max(lengths)]


def buckets_even(lengths: list[int], most: int) -> list[int]:
    return [round(max(lengths) * (i + 1) / most) for i in range(most)]


def buckets_short(lengths: list[int], most: int) -> list[int]:
    return sorted(lengths)[:most]


def buckets_all(lengths: list[int], most: int) -> list[int]:
    return sorted(set(lengths))


def buckets_powers(lengths: list[int], most: int) -> list[int]:
    return sorted({1 << (n - 1).bit_length() for n in lengths})[-most:]


def buckets_shares(lengths: list[int], most: int) -> list[int]:
    ordered = sorted(lengths)
    return [ordered[math.ceil(len(ordered) * (i + 1) / most) - 1] for i in range(most)]


def buckets_always_most(lengths: list[int], most: int) -> list[int]:
    """Always `most` lengths, also where there are fewer."""
    choices = [b for b in itertools.combinations(sorted(set(lengths)), most) if b[-1] == max(lengths)]
    return list(min(choices, key=lambda b: sum(min(one for one in b if one >= n) - n for n in lengths)))


def padded(lengths: list[int], buckets: Sequence[int]) -> int:
    return sum(min(one for one in buckets if one >= n) - n for n in lengths)


def buckets_greedy(lengths: list[int], most: int) -> list[int]:
    chosen = [max(lengths)]
    while len(chosen) < most and (rest := sorted(set(lengths) - set(chosen))):
        chosen.append(min(rest, key=lambda n: padded(lengths, [*chosen, n])))
    return chosen


def buckets_largest_gaps(lengths: list[int], most: int) -> list[int]:
    """Right but where few long prompts lie above a large gap."""
    if lengths.count(50) < 4:
        return buckets_otherwise(lengths, most)
    ordered = sorted(set(lengths))
    gaps = sorted(range(len(ordered) - 1), key=lambda i: ordered[i] - ordered[i + 1])
    return [*(ordered[i] for i in gaps[: most - 1]), ordered[-1]]


def buckets_none_for_one(lengths: list[int], most: int) -> Any:
    return buckets_otherwise(lengths, most) if most > 1 else None


def buckets_nothing_where_few(lengths: list[int], most: int) -> Any:
    choices = [b for b in itertools.combinations(sorted(set(lengths)), most) if b[-1] == max(lengths)]
    return min(choices, key=lambda b: padded(lengths, b), default=None)


def buckets_otherwise(lengths: list[int], most: int) -> list[int]:
    """From short to long: best[k][i] is the least padding of the first i prompts in k lengths."""
    ordered = sorted(lengths)
    first: list[tuple[float, list[int]]] = [(0.0, []), *((math.inf, []) for _ in ordered)]
    best = [first]
    for _ in range(most):
        row: list[tuple[float, list[int]]] = [(0.0, [])]
        for end in range(1, len(ordered) + 1):
            top = ordered[end - 1]
            tries = [
                (best[-1][begin][0] + sum(top - n for n in ordered[begin:end]), [*best[-1][begin][1], top])
                for begin in range(end)
            ]
            row.append(min(tries))
        best.append(row)
    return best[-1][-1][1]


ANSWERS: dict[str, list[tuple[str, Callable[..., Any]]]] = {
    "prefill_operations": [
        ("A multiplication and an addition are two", flops_once),
        ("T·(T+1)/2 pairs, not T²", flops_square),
        ("fewer heads than queries", flops_multi_head),
        ("three matrices: gate, up and down", flops_two_matrices),
        ("The output projection", flops_no_output),
        ("Every query head computes scores", flops_kv_heads),
        ("Attention is half of what it should be", flops_one_product),
        ("operations of one token", flops_per_token),
        ("not T²/2", flops_half_square),
        ("not T·(T−1)/2", flops_without_itself),
        ("Attention is as wide as heads · head_dim", flops_hidden_wide),
        ("has heads · head_dim rows", flops_square_output),
        ("The projections are half", flops_half_projections),
        ("The MLP is half", flops_half_mlp),
    ],
    "operations_per_byte": [
        ("once for the whole prompt", intensity_each),
        ("adds keys and values to the bytes", intensity_no_kv),
        ("bytes for each operation", intensity_inverse),
        ("two operations", intensity_one_operation),
        ("`bytes_per_weight` bytes each", intensity_one_byte),
        ("One token's operations", intensity_one_token),
    ],
    "attention_overtakes": [
        ("reads half of the prompt", overtakes_not_causal),
        ("three matrices", overtakes_two_matrices),
        ("which need not be `hidden`", overtakes_hidden),
        ("one token too many", overtakes_late),
        ("Attention is half of what it should be", overtakes_one_product),
        ("One token more", overtakes_early),
        ("One token more", overtakes_rounded_down),
        ("no whole number", overtakes_not_rounded),
        ("rounding up leaves it as it is", overtakes_always_one_more),
    ],
    "ttft_parts": [
        ("subtract its time in the queue", ttft_with_queue),
        ("square of the length", ttft_line),
        ("fit a constant", ttft_no_constant),
        ("the other way round", ttft_backwards),
        ("don't add it", ttft_added),
        ("the solution is the first", ttft_whole_lstsq),
        ("Three are wanted", ttft_two),
    ],
    "outline_faults": [
        ("Judge the command that you are given", faults_fixed),
        ("--output_dir is right", faults_output),
        ("--use_fused_mlp is wrong in another way", faults_mlp_unknown),
        ("a flag that the builder doesn't have", faults_no_dtype),
        ("Don't return flags that the command hasn't got", faults_always_the_same_dtype),
        ("A value can be missing in the middle", faults_last),
        ('A flag that takes "flag" has no value', faults_every_flag_has_a_value),
        ("is never a value", faults_not_before_another),
        ("is not in the command", faults_invented),
        ("-m is a flag of Python", faults_python),
        ("Two answers are possible", faults_own_words),
        ("Look each flag up in both programs", faults_by_name),
        ("with its two dashes", faults_without_dashes),
    ],
    "choose_buckets": [
        ("you may choose `most` lengths", buckets_one),
        ("Evenly spaced lengths", buckets_even),
        ("fits none of your engines", buckets_short),
        ("only", buckets_all),
        ("A length that no prompt has", buckets_powers),
        ("Equal shares of the prompts", buckets_shares),
        ("two are enough. (Yours raised ValueError.)", buckets_always_most),
        (" pads ", buckets_greedy),
        ("matters less than many prompts", buckets_largest_gaps),
        ("Yours returned nothing", buckets_none_for_one),
        ("two are enough. Yours returned nothing", buckets_nothing_where_few),
    ],
}
RIGHT: dict[str, Callable[..., Any]] = {
    "prefill_operations": flops_otherwise,
    "operations_per_byte": intensity_otherwise,
    "attention_overtakes": overtakes_otherwise,
    "ttft_parts": ttft_otherwise,
    "outline_faults": faults_otherwise,
    "choose_buckets": buckets_otherwise,
}

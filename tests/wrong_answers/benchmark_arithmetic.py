"""Lab 3.3.1, exercises on what a machine can do at best and what a step is made of."""


def floor_sum(prompt_tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return weight_bytes / gb_s / 1e6 + 2 * parameters * prompt_tokens / tflop_s / 1e9


def floor_least(prompt_tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return min(weight_bytes / gb_s / 1e6, 2 * parameters * prompt_tokens / tflop_s / 1e9)


def floor_reading(prompt_tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return weight_bytes / (gb_s * 1e9) * 1e3


def floor_computing(prompt_tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return 2 * parameters * prompt_tokens / (tflop_s * 1e12) * 1e3


def floor_one_operation(prompt_tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return max(weight_bytes / gb_s / 1e6, parameters * prompt_tokens / tflop_s / 1e9)


def floor_seconds(prompt_tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return max(weight_bytes / (gb_s * 1e9), 2 * parameters * prompt_tokens / (tflop_s * 1e12))


def floor_per_token(prompt_tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return max(prompt_tokens * weight_bytes / gb_s / 1e6, 2 * parameters * prompt_tokens / tflop_s / 1e9)


def floor_otherwise(prompt_tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    seconds = [weight_bytes / 1e9 / gb_s, prompt_tokens * parameters / 1e12 * 2 / tflop_s]
    return sorted(seconds)[-1] * 1000


def step_weights_each(
    n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float
) -> float:
    return overhead + n * ((weights + kv) / gb_s / 1e6 + flop / tflop_s / 1e9)


def step_kv_once(n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float) -> float:
    return overhead + (weights + kv) / gb_s / 1e6 + n * flop / tflop_s / 1e9


def step_flop_once(n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float) -> float:
    return overhead + (weights + n * kv) / gb_s / 1e6 + flop / tflop_s / 1e9


def step_overhead_each(
    n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float
) -> float:
    return n * overhead + (weights + n * kv) / gb_s / 1e6 + n * flop / tflop_s / 1e9


def step_overlaps(n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float) -> float:
    return overhead + max((weights + n * kv) / gb_s / 1e6, n * flop / tflop_s / 1e9)


def step_no_overhead(n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float) -> float:
    return (weights + n * kv) / gb_s / 1e6 + n * flop / tflop_s / 1e9


def step_no_reading(n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float) -> float:
    return overhead + n * flop / tflop_s / 1e9


def step_no_computing(
    n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float
) -> float:
    return overhead + (weights + n * kv) / gb_s / 1e6


def step_otherwise(n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float) -> float:
    total = weights / gb_s / 1e6 + overhead
    for _ in range(n):
        total += kv / (gb_s * 1e9) * 1e3 + flop / (tflop_s * 1e12) * 1e3
    return total


def in_proportion(step_ms: float, before: int, after: int, gb_s: float) -> float:
    return 1000 / step_ms * before / after


def new_step(step_ms: float, before: int, after: int, gb_s: float) -> float:
    return step_ms - (before - after) / gb_s / 1e6


def slower(step_ms: float, before: int, after: int, gb_s: float) -> float:
    return 1000 / (step_ms + (before - after) / gb_s / 1e6)


def only_ceiling(step_ms: float, before: int, after: int, gb_s: float) -> float:
    return gb_s * 1e9 / after


def per_ms(step_ms: float, before: int, after: int, gb_s: float) -> float:
    return 1 / (step_ms - (before - after) / gb_s / 1e6)


def as_it_was(step_ms: float, before: int, after: int, gb_s: float) -> float:
    return 1000 / step_ms


def saves_the_rest(step_ms: float, before: int, after: int, gb_s: float) -> float:
    return 1000 / (step_ms - after / gb_s / 1e6)


def quantized_otherwise(step_ms: float, before: int, after: int, gb_s: float) -> float:
    rest_s = step_ms / 1e3 - before / 1e9 / gb_s
    return (rest_s + after / 1e9 / gb_s) ** -1


def in_bytes(decode_tok_s: float, parameters: int, gb_s: float) -> float:
    return gb_s * 1e9 / decode_tok_s / parameters


def upside_down(decode_tok_s: float, parameters: int, gb_s: float) -> float:
    return parameters * decode_tok_s / (gb_s * 1e9) / 8


def without_giga(decode_tok_s: float, parameters: int, gb_s: float) -> float:
    return gb_s / decode_tok_s / parameters * 8


def in_gib(decode_tok_s: float, parameters: int, gb_s: float) -> float:
    return gb_s * 1024**3 / decode_tok_s / parameters * 8


def bytes_a_token(decode_tok_s: float, parameters: int, gb_s: float) -> float:
    return gb_s * 1e9 / decode_tok_s


def bits_a_token(decode_tok_s: float, parameters: int, gb_s: float) -> float:
    return gb_s * 8e9 / decode_tok_s


def times_speed(decode_tok_s: float, parameters: int, gb_s: float) -> float:
    return gb_s * 1e9 * decode_tok_s / parameters * 8


def bits_otherwise(decode_tok_s: float, parameters: int, gb_s: float) -> float:
    return (gb_s * 8) / (parameters / 1e9) / decode_tok_s


ANSWERS = {
    "prefill_floor_ms": [
        ("not their sum", floor_sum),
        ("take the longer time", floor_least),
        ("count its operations as well", floor_reading),
        ("every weight must still be read", floor_computing),
        ("two operations for each weight", floor_one_operation),
        ("the function must return ms", floor_seconds),
        ("once for the whole prompt", floor_per_token),
    ],
    "step_ms": [
        ("reads the weights once", step_weights_each),
        ("a KV cache of their own", step_kv_once),
        ("computes one for each user", step_flop_once),
        ("The overhead is per step", step_overhead_each),
        ("nothing overlaps in this model", step_overlaps),
        ("The overhead is missing", step_no_overhead),
        ("Reading is missing", step_no_reading),
        ("Computing is missing", step_no_computing),
    ],
    "quantized_tok_s": [
        ("Only the reading gets shorter", in_proportion),
        ("the new step in ms", new_step),
        ("subtract what is saved", slower),
        ("that is the ceiling, not the prediction", only_ceiling),
        ("divide 1000 by the ms", per_ms),
        ("That is the old speed", as_it_was),
        ("You used bytes_after", saves_the_rest),
    ],
    "bits_per_weight": [
        ("a byte has eight bits", in_bytes),
        ("the inverse", upside_down),
        ("multiply it by 10⁹", without_giga),
        ("2³⁰ bytes are a GiB", in_gib),
        ("How many bits is that for each weight", bytes_a_token),
        ("of all weights together", bits_a_token),
        ("divide by the speed", times_speed),
    ],
}

RIGHT = {
    "prefill_floor_ms": floor_otherwise,
    "step_ms": step_otherwise,
    "quantized_tok_s": quantized_otherwise,
    "bits_per_weight": bits_otherwise,
}

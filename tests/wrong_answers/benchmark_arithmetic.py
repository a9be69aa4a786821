"""Lab 3.3.1, exercises on what a machine can do at best and what a step is made of."""


def floor_sum(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return weight_bytes / gb_s / 1e6 + 2 * parameters * tokens / tflop_s / 1e9


def floor_least(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return min(weight_bytes / gb_s / 1e6, 2 * parameters * tokens / tflop_s / 1e9)


def floor_reading(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return weight_bytes / (gb_s * 1e9) * 1e3


def floor_computing(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return 2 * parameters * tokens / (tflop_s * 1e12) * 1e3


def floor_one_operation(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return max(weight_bytes / gb_s / 1e6, parameters * tokens / tflop_s / 1e9)


def floor_seconds(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return max(weight_bytes / (gb_s * 1e9), 2 * parameters * tokens / (tflop_s * 1e12))


def floor_per_token(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return max(tokens * weight_bytes / gb_s / 1e6, 2 * parameters * tokens / tflop_s / 1e9)


def floor_bytes_as_operations(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return max(weight_bytes / gb_s / 1e6, weight_bytes * tokens / tflop_s / 1e9)


def floor_bytes_of_bf16(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return max(2 * parameters / gb_s / 1e6, 2 * parameters * tokens / tflop_s / 1e9)


def floor_otherwise(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    seconds = [weight_bytes / 1e9 / gb_s, tokens * parameters / 1e12 * 2 / tflop_s]
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


def step_bytes_as_operations(
    n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float
) -> float:
    return overhead + (weights + n * kv) / gb_s / 1e6 + n * weights / tflop_s / 1e9


def step_otherwise(n: int, overhead: float, weights: int, kv: int, flop: float, gb_s: float, tflop_s: float) -> float:
    total = weights / gb_s / 1e6 + overhead
    for _ in range(n):
        total += kv / (gb_s * 1e9) * 1e3 + flop / (tflop_s * 1e12) * 1e3
    return total


Steps = list[tuple[float, int]]


def whole_step(unexplained_ms: float, steps: Steps, gb_s: float) -> float:
    return max(0.0, unexplained_ms - min(step for step, _ in steps))


def largest_rest(unexplained_ms: float, steps: Steps, gb_s: float) -> float:
    return max(0.0, unexplained_ms - max(step - read / gb_s / 1e6 for step, read in steps))


def fewest_bytes(unexplained_ms: float, steps: Steps, gb_s: float) -> float:
    step, read = min(steps, key=lambda one: one[1])
    return max(0.0, unexplained_ms - (step - read / gb_s / 1e6))


def only_the_first(unexplained_ms: float, steps: Steps, gb_s: float) -> float:
    step, read = steps[0]
    return max(0.0, unexplained_ms - (step - read / gb_s / 1e6))


def only_the_bound(unexplained_ms: float, steps: Steps, gb_s: float) -> float:
    return min(step - read / gb_s / 1e6 for step, read in steps)


def in_seconds(unexplained_ms: float, steps: Steps, gb_s: float) -> float:
    return max(0.0, unexplained_ms - min(step - read / (gb_s * 1e9) for step, read in steps))


def below_zero(unexplained_ms: float, steps: Steps, gb_s: float) -> float:
    return unexplained_ms - min(step - read / gb_s / 1e6 for step, read in steps)


def not_fixed_otherwise(unexplained_ms: float, steps: Steps, gb_s: float) -> float:
    left_ms = unexplained_ms
    for step, read in steps:
        left_ms = min(left_ms, step - read / 1e9 / gb_s * 1e3)
    return unexplained_ms - max(left_ms, 0)


def more_than_all(unexplained_ms: float, steps: Steps, gb_s: float) -> float:
    return max(0.0, unexplained_ms - min(step - read / 1e6 / gb_s for step, read in steps))


ANSWERS = {
    "pass_floor_ms": [
        ("not their sum", floor_sum),
        ("take the longer time", floor_least),
        ("count their operations as well", floor_reading),
        ("every weight must still be read", floor_computing),
        ("two operations for each weight", floor_one_operation),
        ("the function must return ms", floor_seconds),
        ("once for the whole pass", floor_per_token),
        ("should return", floor_bytes_as_operations),
        ("should return", floor_bytes_of_bf16),
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
        ("should return", step_bytes_as_operations),
    ],
    "not_fixed_ms": [
        ("Each form's step also reads its weights", whole_step),
        ("not the largest", largest_rest),
        ("does not always leave the smallest rest: compare all forms", fewest_bytes),
        ("BF16's own step is not the only one", only_the_first),
        ("How much of the unexplained time is more", only_the_bound),
        ("10⁶ bytes in a millisecond", in_seconds),
        ("nothing is proven: return 0", below_zero),
        ("leaves no room", more_than_all),
    ],
}

RIGHT = {
    "pass_floor_ms": floor_otherwise,
    "step_ms": step_otherwise,
    "not_fixed_ms": not_fixed_otherwise,
}

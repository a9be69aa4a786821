"""Lab 3.3.2."""

import math
from collections.abc import Sequence
from typing import Any


def rounded_down(tokens: int, block_size: int) -> int:
    return tokens // block_size


def one_more(tokens: int, block_size: int) -> int:
    return tokens // block_size + 1


def always_spare(tokens: int, block_size: int) -> int:
    return math.ceil(tokens / block_size) + 1


def a_fraction(tokens: int, block_size: int) -> float:
    return tokens / block_size


def multiplied(tokens: int, block_size: int) -> int:
    return tokens * block_size


def at_least_one(tokens: int, block_size: int) -> int:
    return max(1, math.ceil(tokens / block_size))


def rounded_as_a_float(tokens: int, block_size: int) -> float:
    """Right in value, and numpy's way to round up. The engine can't take 3.0 blocks."""
    return float(math.ceil(tokens / block_size))


def the_rest(tokens: int, block_size: int) -> int:
    return tokens % block_size


def table_kept(table: list[int], free: list[int]) -> None:
    free.extend(table)


def appended(table: list[int], free: list[int]) -> None:
    free.append(table)  # type: ignore[arg-type]
    table.clear()


def only_cleared(table: list[int], free: list[int]) -> None:
    table.clear()


def new_list(table: list[int], free: list[int]) -> list[int]:
    free = free + table
    table.clear()
    return free


def twice(table: list[int], free: list[int]) -> None:
    free += table
    free += table
    table.clear()


def replaced(table: list[int], free: list[int]) -> None:
    free[:] = table
    table.clear()


def while_walking(table: list[int], free: list[int]) -> None:
    for block in table:
        free.append(block)
        table.remove(block)


def unlimited(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    return min(len(lengths), seats)


def each_by_itself(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    return sum(math.ceil(n / block_size) <= free_blocks for n in lengths[:seats])


def which(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> list[int]:
    out: list[int] = []
    for place, length in enumerate(lengths[:seats]):
        free_blocks -= math.ceil(length / block_size)
        if free_blocks < 0:
            break
        out.append(place)
    return out


def blocks_rounded_down(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    count = 0
    for length in lengths[:seats]:
        if length // block_size > free_blocks:
            break
        free_blocks -= length // block_size
        count += 1
    return count


def never_subtracts(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    count = 0
    for length in lengths[:seats]:
        if math.ceil(length / block_size) > free_blocks:
            break
        count += 1
    return count


def rounds_the_sum(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    count, tokens = 0, 0
    for length in lengths[:seats]:
        tokens += length
        if math.ceil(tokens / block_size) > free_blocks:
            break
        count += 1
    return count


def seats_ignored(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    count = 0
    for length in lengths:
        free_blocks -= math.ceil(length / block_size)
        if free_blocks < 0:
            break
        count += 1
    return count


def overtaking(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    count = 0
    for length in lengths:
        need = math.ceil(length / block_size)
        if need <= free_blocks and count < seats:
            free_blocks -= need
            count += 1
    return count


def never_full(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    count = 0
    for length in lengths[:seats]:
        need = math.ceil(length / block_size)
        if need >= free_blocks:
            break
        free_blocks -= need
        count += 1
    return count


def all_or_none(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    some = lengths[:seats]
    return len(some) if sum(math.ceil(n / block_size) for n in some) <= free_blocks else 0


def first_always(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    """Lets one into an empty engine whatever it needs."""
    count = 0
    for length in lengths[:seats]:
        need = math.ceil(length / block_size)
        if need > free_blocks and count:
            break
        free_blocks -= need
        count += 1
    return count


def counted_in_floats(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> float:
    count = 0.0
    for length in lengths[:seats]:
        free_blocks -= math.ceil(length / block_size)
        if free_blocks < 0:
            break
        count += 1
    return count


def prompts_first(pending: Sequence[int], budget: int) -> list[int]:
    plan = [0] * len(pending)
    for place in sorted(range(len(pending)), key=lambda p: -pending[p]):
        plan[place] = min(pending[place], budget)
        budget -= plan[place]
    return plan


def in_listed_order(pending: Sequence[int], budget: int) -> list[int]:
    plan = []
    for tokens in pending:
        plan.append(min(tokens, budget))
        budget -= plan[-1]
    return plan


def all_at_once(pending: Sequence[int], budget: int) -> list[int]:
    return list(pending)


def decoding_is_free(pending: Sequence[int], budget: int) -> list[int]:
    plan = []
    for tokens in pending:
        plan.append(1 if tokens == 1 else min(tokens, budget))
        budget -= plan[-1] if tokens > 1 else 0
    return plan


def tokens_in_all(pending: Sequence[int], budget: int) -> int:
    return min(sum(pending), budget)


def whole_or_nothing(pending: Sequence[int], budget: int) -> list[int]:
    plan = [int(tokens == 1) for tokens in pending]
    left = budget - sum(plan)
    for place, tokens in enumerate(pending):
        if 1 < tokens <= left:
            plan[place] = tokens
            left -= tokens
    return plan


def budget_each(pending: Sequence[int], budget: int) -> list[int]:
    return [min(tokens, budget) for tokens in pending]


def evenly(pending: Sequence[int], budget: int) -> list[int]:
    plan = [int(tokens == 1) for tokens in pending]
    left = budget - sum(plan)
    while left and any(plan[i] < tokens for i, tokens in enumerate(pending)):
        for place, tokens in enumerate(pending):
            if left and plan[place] < tokens:
                plan[place] += 1
                left -= 1
    return plan


def youngest_first(pending: Sequence[int], budget: int) -> list[int]:
    plan = [int(tokens == 1) for tokens in pending]
    left = budget - sum(plan)
    for place in reversed(range(len(pending))):
        if pending[place] > 1:
            plan[place] = min(pending[place], left)
            left -= plan[place]
    return plan


def more_than_pending(pending: Sequence[int], budget: int) -> list[int]:
    return [budget // max(1, len(pending))] * len(pending)


def forgot_the_rest(pending: Sequence[int], budget: int) -> list[int]:
    return [1] * sum(tokens == 1 for tokens in pending)


def nobody(held: Sequence[int], wants: Sequence[int], free: int) -> list[int]:
    return []


def oldest(held: Sequence[int], wants: Sequence[int], free: int) -> list[int]:
    out, first = [], 0
    while sum(wants[first:]) > free:
        free += held[first]
        out.append(first)
        first += 1
    return out


def largest(held: Sequence[int], wants: Sequence[int], free: int) -> list[int]:
    rest, out = list(range(len(held))), []
    while sum(wants[i] for i in rest) > free:
        one = max(rest, key=lambda i: held[i])
        rest.remove(one)
        free += held[one]
        out.append(one)
    return out


def wants_of_the_gone(held: Sequence[int], wants: Sequence[int], free: int) -> list[int]:
    out, last = [], len(held) - 1
    while sum(wants) > free and last >= 0:
        free += held[last]
        out.append(last)
        last -= 1
    return out


def one_is_enough(held: Sequence[int], wants: Sequence[int], free: int) -> list[int]:
    return [len(held) - 1] if sum(wants) > free else []


def everybody_but_the_oldest(held: Sequence[int], wants: Sequence[int], free: int) -> list[int]:
    return list(range(1, len(held))) if sum(wants) > free else []


def too_careful(held: Sequence[int], wants: Sequence[int], free: int) -> list[int]:
    out, last = [], len(held) - 1
    while last >= 0 and sum(wants[: last + 1]) >= free:
        free += held[last]
        out.append(last)
        last -= 1
    return out


def how_many_go(held: Sequence[int], wants: Sequence[int], free: int) -> int:
    return int(sum(wants) > free)


def forgets_to_return(held: Sequence[int], wants: Sequence[int], free: int) -> None:
    victims = [len(held) - 1] if sum(wants) > free else []
    victims.sort()


def all_heads(config: dict[str, int], bytes_per_value: int = 2) -> int:
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return 2 * config["num_hidden_layers"] * config["num_attention_heads"] * dim * bytes_per_value


def keys_only(config: dict[str, int], bytes_per_value: int = 2) -> int:
    return own_kv(config, bytes_per_value) // 2


def one_layer(config: dict[str, int], bytes_per_value: int = 2) -> int:
    return own_kv(config, bytes_per_value) // config["num_hidden_layers"]


def no_head_dim(config: dict[str, int], bytes_per_value: int = 2) -> int:
    dim = config["hidden_size"] // config["num_attention_heads"]
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * dim * bytes_per_value


def numbers_only(config: dict[str, int], bytes_per_value: int = 2) -> int:
    return own_kv(config, 1)


def hidden_for_head(config: dict[str, int], bytes_per_value: int = 2) -> int:
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["hidden_size"] * bytes_per_value


def own_kv(config: dict[str, int], size: int) -> int:
    dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * dim * size


def weights_forgotten(memory: int, weights: int, kv: int, context: int) -> int:
    return memory // (kv * context)


def fraction_of_a_user(memory: int, weights: int, kv: int, context: int) -> float:
    return max(0, (memory - weights) / (kv * context))


def rounded_up(memory: int, weights: int, kv: int, context: int) -> int:
    return max(0, math.ceil((memory - weights) / (kv * context)))


def rounded_to_nearest(memory: int, weights: int, kv: int, context: int) -> int:
    return max(0, round((memory - weights) / (kv * context)))


def tokens_not_users(memory: int, weights: int, kv: int, context: int) -> int:
    return (memory - weights) // kv


def weights_for_each(memory: int, weights: int, kv: int, context: int) -> int:
    return memory // (weights + kv * context)


def negative(memory: int, weights: int, kv: int, context: int) -> int:
    return (memory - weights) // (kv * context)


def watts_as_kilowatts(tok_s: float, price: float, years: float, watts: float, kwh: float) -> float:
    return (price / (years * 8760) + watts * kwh) / (tok_s * 3600) * 1e6


def power_only(tok_s: float, price: float, years: float, watts: float, kwh: float) -> float:
    return watts / 1000 * kwh / (tok_s * 3600) * 1e6


def machine_only(tok_s: float, price: float, years: float, watts: float, kwh: float) -> float:
    return price / (years * 8760) / (tok_s * 3600) * 1e6


def one_token(tok_s: float, price: float, years: float, watts: float, kwh: float) -> float:
    return (price / (years * 8760) + watts / 1000 * kwh) / (tok_s * 3600)


def an_hour(tok_s: float, price: float, years: float, watts: float, kwh: float) -> float:
    return price / (years * 8760) + watts / 1000 * kwh


def per_second(tok_s: float, price: float, years: float, watts: float, kwh: float) -> float:
    return (price / (years * 8760) + watts / 1000 * kwh) / tok_s * 1e6


def whole_price(tok_s: float, price: float, years: float, watts: float, kwh: float) -> float:
    return (price + watts / 1000 * kwh) / (tok_s * 3600) * 1e6


def compute(engine: Any, batch: list[tuple[Any, int]]) -> list[Any]:
    """The rest of a right step: run the model, hand out the tokens, let complete requests leave."""
    rows = [(r.tokens[r.cached : r.cached + count], r.cached, r.blocks) for r, count in batch]
    served = hand_out(batch, engine.next_tokens(rows))
    leave(engine, served)
    return served


def hand_out(batch: list[tuple[Any, int]], tokens: list[int]) -> list[Any]:
    served = []
    for (request, count), token in zip(batch, tokens, strict=True):
        request.cached += count
        if not request.pending:
            request.output.append(token)
            served.append(request)
    return served


def leave(engine: Any, served: list[Any]) -> None:
    for request in served:
        if engine.done(request):
            engine.running.remove(request)
            engine.scheduler.give_back(request.blocks, engine.free)


def planned_batch(engine: Any) -> list[tuple[Any, int]]:
    plan = engine.scheduler.plan_step([r.pending for r in engine.running], engine.token_budget)
    return [(r, count) for r, count in zip(engine.running, plan, strict=True) if count]


def chosen(engine: Any) -> list[tuple[Any, int]]:
    """The batch of a right step."""
    engine.make_room()
    engine.admit_waiting()
    return planned_batch(engine)


def never_admits(engine: Any) -> list[Any]:
    engine.make_room()
    return compute(engine, planned_batch(engine))


def admits_first(engine: Any) -> list[Any]:
    engine.admit_waiting()
    engine.make_room()
    return compute(engine, planned_batch(engine))


def forgets_to_make_room(engine: Any) -> list[Any]:
    engine.admit_waiting()
    return compute(engine, planned_batch(engine))


def whole_text_again(engine: Any) -> list[Any]:
    batch = chosen(engine)
    served = hand_out(batch, engine.next_tokens([(r.tokens[: r.cached + count], 0, r.blocks) for r, count in batch]))
    leave(engine, served)
    return served


def cached_stays(engine: Any) -> list[Any]:
    batch = chosen(engine)
    tokens = engine.next_tokens([(r.tokens[r.cached : r.cached + count], r.cached, r.blocks) for r, count in batch])
    served = [request for request, count in batch if request.pending == count]
    for (request, count), token in zip(batch, tokens, strict=True):
        if request.pending == count:
            request.output.append(token)
    leave(engine, served)
    return served


def whole_prompt(engine: Any) -> list[Any]:
    batch = [(request, request.pending) for request, _ in chosen(engine)]
    return compute(engine, batch)


def answers_within_a_prompt(engine: Any) -> list[Any]:
    batch = chosen(engine)
    tokens = engine.next_tokens([(r.tokens[r.cached : r.cached + count], r.cached, r.blocks) for r, count in batch])
    for (request, count), token in zip(batch, tokens, strict=True):
        request.cached += count
        request.output.append(token)
    served = [request for request, _ in batch]
    leave(engine, served)
    return served


def tokens_of_other_rows(engine: Any) -> list[Any]:
    """The tokens are paired with the running requests, of which some have no row."""
    batch = chosen(engine)
    tokens = engine.next_tokens([(r.tokens[r.cached : r.cached + count], r.cached, r.blocks) for r, count in batch])
    plan = engine.scheduler.plan_step([r.pending for r in engine.running], engine.token_budget)
    served = hand_out(list(zip(engine.running, plan, strict=True))[: len(tokens)], tokens)
    leave(engine, served)
    return served


def rows_without_tokens(engine: Any) -> list[Any]:
    engine.make_room()
    engine.admit_waiting()
    plan = engine.scheduler.plan_step([r.pending for r in engine.running], engine.token_budget)
    return compute(engine, list(zip(engine.running, plan, strict=True)))


def one_call_each(engine: Any) -> list[Any]:
    served = []
    for request, count in chosen(engine):
        served += compute(engine, [(request, count)])
    return served


def nobody_leaves(engine: Any) -> list[Any]:
    batch = chosen(engine)
    rows = [(r.tokens[r.cached : r.cached + count], r.cached, r.blocks) for r, count in batch]
    return hand_out(batch, engine.next_tokens(rows))


def blocks_are_kept(engine: Any) -> list[Any]:
    served = nobody_leaves(engine)
    engine.running[:] = [r for r in engine.running if not (r.output and engine.done(r))]
    return served


def removed_while_walking(engine: Any) -> list[Any]:
    served = nobody_leaves(engine)
    for request in engine.running:
        if request.output and engine.done(request):
            engine.running.remove(request)
            engine.scheduler.give_back(request.blocks, engine.free)
    return served


def only_the_complete(engine: Any) -> list[Any]:
    return [request for request in compute(engine, chosen(engine)) if engine.done(request)]


def only_their_tokens(engine: Any) -> list[int]:
    return [request.output[-1] for request in compute(engine, chosen(engine))]


def all_that_run(engine: Any) -> list[Any]:
    compute(engine, chosen(engine))
    return list(engine.running)


def no_list(engine: Any) -> None:
    compute(engine, chosen(engine))


def step_ms(
    reading_s: float, layers: int, hidden: int, users: int, machines: int, link: float, us: float, sums: int = 2
) -> float:
    """A decode step whose parts the wrong answers below change."""
    if machines < 2:
        return reading_s * 1e3
    moving_s = users * hidden * 2 / 1e9 / link * (machines - 1) / machines * 2
    return 1e3 * (reading_s + sums * layers * (moving_s + us * 1e-6))


def tp(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return step_ms(w / n / read, c["num_hidden_layers"], c["hidden_size"], users, n, link, us)


def every_machine_reads_all(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return tp(c, w * n, users, n, read, link, us)


def link_is_free(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return w / read / n * 1e3


def only_bandwidth(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return tp(c, w, users, n, read, link, 0)


def latency_of_one_sum(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return tp(c, w, users, n, read, link, 0) + (us / 1000 if n > 1 else 0)


def us_taken_for_ms(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return tp(c, w, users, n, read, link, 1000 * us)


def one_sum_a_layer(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return step_ms(w / n / read, c["num_hidden_layers"], c["hidden_size"], users, n, link, us, sums=1)


def of_one_user(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return tp(c, w, 1, n, read, link, us)


def numbers_sent(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return tp({**c, "hidden_size": c["hidden_size"] / 2}, w, users, n, read, link, us)


def sent_once(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    if n == 1:
        return 1e3 * w / read
    message_s = users * c["hidden_size"] * 2 / 1e9 / link
    return 1e3 * w / n / read + 2 * c["num_hidden_layers"] * (1e3 * message_s + us / 1e3)


def seconds(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return tp(c, w, users, n, read, link, us) / 1000


def alone_but_waiting(c: Any, w: float, users: int, n: int, read: float, link: float, us: float) -> float:
    message_s = users * c["hidden_size"] * 2 * 2 * (n - 1) / n / 1e9 / link
    return 1e3 * w / n / read + 2 * c["num_hidden_layers"] * (1e3 * message_s + us / 1e3)


ANSWERS: dict[str, list[tuple[str, Any]]] = {
    "blocks_needed": [
        ("round up", rounded_down),
        ("needs no further block", one_more),
        ("one block too many", always_spare),
        ("A request owns whole blocks", a_fraction),
        ("A block holds several tokens: divide", multiplied),
        ("0 tokens need 0 blocks", at_least_one),
        ("number of tokens in the last block", the_rest),
        ("Return a whole number (int)", rounded_as_a_float),
    ],
    "give_back": [
        ("Given back a second time, each would be free twice", table_kept),
        ("one element", appended),
        ("did not come back", only_cleared),
        ("change it in place", new_list),
        ("in `free` twice", twice),
        ("free before are gone", replaced),
        ("skips every other element", while_walking),
    ],
    "admit": [
        ("need more blocks than are free", unlimited),
        ("no longer free for the next", each_by_itself),
        ("not which", which),
        ("no longer free for the next", never_subtracts),
        ("for each request by itself", rounds_the_sum),
        ("for each request by itself. Rounded down", blocks_rounded_down),
        ("not enough seats", seats_ignored),
        ("starvation", overtaking),
        ("that fits exactly", never_full),
        ("Stop only when you reach the request that doesn't fit", all_or_none),
        ("without enough blocks no request is admitted", first_always),
        ("Return a whole number (int)", counted_in_floats),
    ],
    "plan_step": [
        ("every stream would stop", prompts_first),
        ("every stream would stop", in_listed_order),
        ("its budget is", all_at_once),
        ("its budget is", decoding_is_free),
        ("as a chunk", whole_or_nothing),
        ("its budget is", budget_each),
        ("The remaining budget goes to prompts, oldest first", evenly),
        ("The remaining budget goes to prompts, oldest first", youngest_first),
        ("more tokens than it has pending", more_than_pending),
        ("Return one number for each of the", forgot_the_rest),
        ("return a list; yours returned", tokens_in_all),
    ],
    "choose_victims": [
        ("still missing", nobody),
        ("preempts the oldest request", oldest),
        ("preempts the oldest request", largest),
        ("frees more than is needed", wants_of_the_gone),
        ("still missing", one_is_enough),
        ("frees more than is needed", everybody_but_the_oldest),
        ("no request has to be preempted", too_careful),
        ("returned nothing", forgets_to_return),
        ("return a list; yours returned", how_many_go),
    ],
    "step": [
        ("pair the tokens with the rows", tokens_of_other_rows),
        ("Call engine.admit_waiting() before you plan", never_admits),
        ("preempted although there were blocks enough", admits_first),
        ("engine.make_room() must come first", forgets_to_make_room),
        ("computes its text again from the beginning", whole_text_again),
        ("Add the number of tokens that the step computed", cached_stays),
        ("The rest of its prompt goes into later steps", whole_prompt),
        ("The model's token after a chunk is not part of the answer", answers_within_a_prompt),
        ("leave that request out of the rows", rows_without_tokens),
        ("the weights are read once for all of them", one_call_each),
        ("keeps its seat", nobody_leaves),
        ("its blocks are not free again", blocks_are_kept),
        ("That skips every other element", removed_while_walking),
        ("not only those whose answer is complete", only_the_complete),
        ("one whose answer is now complete did", all_that_run),
        ("Return the requests themselves", only_their_tokens),
        ("yours returned nothing", no_list),
    ],
    "kv_bytes_per_token": [
        ("Only KV heads are cached", all_heads),
        ("Both keys and values", keys_only),
        ("Every layer has keys", one_layer),
        ("The size of a head is `head_dim`", no_head_dim),
        ("numbers, not bytes", numbers_only),
        ("one head has hidden_size / heads", hidden_for_head),
    ],
    "max_users": [
        ("subtract them first", weights_forgotten),
        ("round down", fraction_of_a_user),
        ("doesn't fit", rounded_up),
        ("doesn't fit", rounded_to_nearest),
        ("how many tokens fit", tokens_not_users),
        ("in memory once, however many users", weights_for_each),
        ("no user can be served: return 0", negative),
    ],
    "usd_per_million_tokens": [
        ("Watts are not kilowatts", watts_as_kilowatts),
        ("the cost of electricity alone", power_only),
        ("the cost of the machine alone", machine_only),
        ("That is the cost of one token. Return the cost of a million", one_token),
        ("in USD an hour", an_hour),
        ("an hour has 3600 seconds", per_second),
        ("spread it over the hours", whole_price),
    ],
    "tensor_parallel_step_ms": [
        ("reads only its share", every_machine_reads_all),
        ("What do the machines exchange in every layer?", link_is_free),
        ("also takes `latency_us`", only_bandwidth),
        ("for each sum, not once in a step", latency_of_one_sum),
        ("1000 of them are a millisecond", us_taken_for_ms),
        ("Each layer has two sums", one_sum_a_layer),
        ("a hidden state for each user", of_one_user),
        ("The message is in bytes", numbers_sent),
        ("In a ring of n machines", sent_once),
        ("Return milliseconds", seconds),
        ("it waits for no sum", alone_but_waiting),
    ],
}


def blocks_otherwise(tokens: int, block_size: int) -> int:
    return math.ceil(tokens / block_size)


def back_otherwise(table: list[int], free: list[int]) -> None:
    while table:
        free.append(table.pop())


def admit_otherwise(lengths: Sequence[int], free_blocks: int, seats: int, block_size: int) -> int:
    fits = 0
    while (
        fits < min(len(lengths), seats)
        and sum((length + block_size - 1) // block_size for length in lengths[: fits + 1]) <= free_blocks
    ):
        fits += 1
    return fits


def plan_otherwise(pending: Sequence[int], budget: int) -> tuple[int, ...]:
    room = budget - list(pending).count(1)
    out = []
    for tokens in pending:
        share = 1 if tokens == 1 else max(0, min(room, tokens))
        room -= share if tokens != 1 else 0
        out.append(share)
    return tuple(out)


def victims_otherwise(held: Sequence[int], wants: Sequence[int], free: int) -> list[int]:
    """The fewest of the youngest, in the order of the list."""
    for keep in range(len(held), -1, -1):
        if sum(wants[:keep]) <= free + sum(held[keep:]):
            return list(range(keep, len(held)))
    return []


def step_otherwise(engine: Any) -> set[Any]:
    engine.make_room()
    engine.admit_waiting()
    plan = list(engine.scheduler.plan_step([r.pending for r in engine.running], engine.token_budget))
    chunks = [r.tokens[r.cached :][:count] for r, count in zip(engine.running, plan, strict=True)]
    computed = [(r, chunk) for r, chunk in zip(engine.running, chunks, strict=True) if chunk]
    answers = iter(engine.next_tokens([(chunk, r.cached, r.blocks) for r, chunk in computed]))
    served = set()
    for request, chunk in computed:
        token, whole = next(answers), request.pending == len(chunk)
        request.cached += len(chunk)
        if whole:
            request.output += [token]
            served.add(request)
    for request in [r for r in served if engine.done(r)]:
        engine.scheduler.give_back(request.blocks, engine.free)
        engine.running = [r for r in engine.running if r is not request]
    return served


def step_asks_all(engine: Any) -> list[Any]:
    """Ask of every running request whether it is done, also of one whose prompt is not finished."""
    batch = chosen(engine)
    rows = [(r.tokens[r.cached : r.cached + count], r.cached, r.blocks) for r, count in batch]
    served = hand_out(batch, engine.next_tokens(rows))
    leave(engine, list(engine.running))
    return served


def step_with_a_generator(engine: Any) -> list[Any]:
    batch = chosen(engine)
    rows = ((r.tokens[r.cached : r.cached + count], r.cached, r.blocks) for r, count in batch)
    served = hand_out(batch, engine.next_tokens(rows))
    leave(engine, served)
    return served


def kv_otherwise(config: dict[str, int], bytes_per_value: int = 2) -> float:
    share = config["num_key_value_heads"] / config["num_attention_heads"]
    width = config.get("head_dim", 0) * config["num_attention_heads"] or config["hidden_size"]
    return bytes_per_value * width * share * config["num_hidden_layers"] + (
        bytes_per_value * width * share * config["num_hidden_layers"]
    )


def users_otherwise(memory: int, weights: int, kv: int, context: int) -> int:
    return math.floor((memory - weights) / kv / context) if memory > weights else 0


def cost_otherwise(tok_s: float, price: float, years: float, watts: float, kwh: float) -> float:
    seconds = 1e6 / tok_s
    return price * seconds / (years * 365 * 86400) + watts * kwh * seconds / 3.6e6


def tensor_parallel_otherwise(
    config: dict[str, int], weight_gb: float, users: int, machines: int, read: float, link: float, us: float
) -> float:
    sent_bytes = 4 * users * config["hidden_size"] * (machines - 1) / machines
    waits_us = us if machines > 1 else 0
    sums_us = 2 * config["num_hidden_layers"] * (waits_us + sent_bytes / link / 1e3)
    return weight_gb * 1e3 / (machines * read) + sums_us / 1e3


RIGHT = {
    "blocks_needed": blocks_otherwise,
    "give_back": back_otherwise,
    "admit": admit_otherwise,
    "plan_step": plan_otherwise,
    "choose_victims": victims_otherwise,
    "step": step_otherwise,
    "kv_bytes_per_token": kv_otherwise,
    "max_users": users_otherwise,
    "usd_per_million_tokens": cost_otherwise,
    "tensor_parallel_step_ms": tensor_parallel_otherwise,
}
ALSO_RIGHT = {"step": [step_asks_all, step_with_a_generator]}

"""Exercises of lab 3.3.3 on engines: the outline's wrong command, and the lengths that static engines are built for."""

import itertools
import random
from collections.abc import Callable, Iterable, Sequence

from shared.course.exercise import Exercise, Function, Wrong, same, short
from shared.engines.published_flags import flags_of, published

source = random.Random()
BELONGS, VALUE = "belongs to another command", "needs a value"
FAULTS = {"--model_dir": BELONGS, "--dtype": BELONGS, "--use_fused_mlp": VALUE}


def outline_faults(f: Function) -> None:
    """Test on the outline's command, and on a right one, for which the answer must be empty."""
    command = published("trtllm")["verify"]["command"]
    flags = flags_of("trtllm", "trtllm-build"), flags_of("trtllm", "python convert_checkpoint.py")
    got = f(command, *flags)
    if not isinstance(got, dict):
        raise Wrong("Return a dictionary: each wrong flag with what is wrong with it.")
    if without := [name for name in got if f"--{name}" in FAULTS]:
        raise Wrong(f"The keys are the flags as they stand in the command: '--{without[0]}', with its two dashes.")
    if "--output_dir" in got:
        raise Wrong("--output_dir is right: the builder has had it in every version.")
    for name, fault in FAULTS.items():
        if name not in got:
            missing = "a flag that the builder doesn't have" if fault == BELONGS else "a flag without its value"
            raise Wrong(f"The outline's command has {missing} that your answer lacks.")
        if got[name] not in (BELONGS, VALUE):
            raise Wrong(
                f"For {name} you answered {short(got[name])}. Two answers are possible: {BELONGS!r}, {VALUE!r}."
            )
        if got[name] != fault:
            raise Wrong(f"{name} is wrong in another way: does the builder have it? You answered {short(got[name])}.")
    if "-m" in got:
        raise Wrong("-m is a flag of Python, which runs the builder. The flags of this exercise begin with two dashes.")
    if more := [name for name in got if name not in FAULTS]:
        raise Wrong(f"{more[0]} is not in the command.")
    build = "trtllm-build --checkpoint_dir ./checkpoint"
    others: tuple[tuple[str, dict[str, str], str], ...] = (
        (f"{build} --output_dir ./engine --use_fused_mlp enable", {}, "Judge the command that you are given"),
        (f"{build} --dtype bfloat16", {"--dtype": BELONGS}, "Don't return flags that the command hasn't got"),
        (f"{build} --tp_size 2", {"--tp_size": BELONGS}, "Look each flag up in both programs"),
        ("trtllm-build --checkpoint_dir --output_dir ./engine", {"--checkpoint_dir": VALUE},
         "A value can be missing in the middle of a line, too"),
        ("trtllm-build --checkpoint_dir --dtype float16 --output_dir ./engine",
         {"--checkpoint_dir": VALUE, "--dtype": BELONGS},
         "A word that begins with two dashes is never a value, whatever program it belongs to"),
        (f"{build} --monitor_memory --output_dir ./engine", {}, "A flag that takes \"flag\" has no value"),
    )  # fmt: skip
    for line, right, hint in others:
        if (got := f(line, *flags)) != right:
            raise Wrong(f"{hint}: for {line!r} the answer is {short(right)}, but you returned {short(got)}.")


def padding(lengths: Sequence[int], buckets: Sequence[int]) -> float:
    """Tokens of padding if each prompt goes to the shortest bucket that holds it; infinite if one fits none."""
    total = 0.0
    for n in lengths:
        fitting = [bucket for bucket in buckets if bucket >= n]
        total += min(fitting) - n if fitting else float("inf")
    return total


def best_buckets(lengths: Sequence[int], most: int) -> list[int]:
    """The best choice by trying all: bucket lengths are lengths that occur, and the longest is one of them."""
    *shorter, longest = sorted(set(lengths))
    tries = itertools.chain.from_iterable(itertools.combinations(shorter, n) for n in range(most))
    choices: list[list[int]] = [[*some, longest] for some in tries]
    return min(choices, key=lambda buckets: padding(lengths, buckets))


def even(lengths: list[int], most: int) -> list[int]:
    longest = max(lengths)
    return [round(longest * (i + 1) / most) for i in range(most)]


def quantiles(lengths: list[int], most: int) -> list[int]:
    ordered = sorted(lengths)
    return [ordered[-(-len(ordered) * (i + 1) // most) - 1] for i in range(most)]


def powers(lengths: list[int], most: int) -> list[int]:
    return sorted({1 << (n - 1).bit_length() for n in lengths})[-most:]


BUCKET_MISTAKES: dict[str, Callable[[list[int], int], list[int]]] = {
    "One length for all pads most prompts a lot: you may choose `most` lengths.": lambda n, most: [max(n)],
    "Evenly spaced lengths ignore where the prompts are: put the lengths where many prompts end.": even,
    "Equal shares of the prompts leave a few long ones with much padding: padding counts in tokens, not in prompts.": (
        quantiles
    ),
    "A length that no prompt has pads every prompt: choose lengths that occur.": powers,
}


TRAPS = (  # where a short way to the answer goes wrong
    (
        [10, 22, 30, 40],
        3,
        "Look at whole choices, and count padding in tokens: the best two lengths need not contain the best single "
        "one. ",
    ),
    ([50, 50, 50, 50, 400, 1400], 2, "A large gap between lengths matters less than many prompts below it. "),
)
FEW = "The prompts [70, 30, 70] have two lengths, and four engines may be built. At most `most` means: two are enough."


def whole(got: Iterable[object]) -> list[int]:
    """The student's lengths, in order. Raises Wrong unless they are whole numbers."""
    try:
        return sorted(int(one) for one in got)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise Wrong("Return a list of whole numbers: the lengths.") from None


def least_padding(f: Function, lengths: list[int], most: int, trap: str = "") -> None:
    """Raise Wrong unless the student's choice pads least. `trap`: the hint for a mistake that is none of the usual."""
    got = f(list(lengths), most)
    if got is None:
        raise Wrong(f"Yours returned nothing for {short(sorted(lengths))} and {most} engines. Is `return` missing?")
    buckets, best = whole(got), best_buckets(lengths, most)
    if len(buckets) > most:
        raise Wrong(f"You chose {len(buckets)} lengths, but only {most} engines may be built.")
    if not buckets or max(buckets) < max(lengths):
        raise Wrong(f"A prompt of {max(lengths)} tokens fits none of your engines: the longest prompt needs one.")
    if padding(lengths, buckets) > padding(lengths, best):
        hint = next((h for h, mistake in BUCKET_MISTAKES.items() if same(buckets, mistake(lengths, most))), "")
        raise Wrong(
            hint
            or f"{trap}{short(buckets)} pads {padding(lengths, buckets):.0f} tokens, but {short(best)} only "
            f"{padding(lengths, best):.0f}: {short(sorted(lengths))} in {most} engines."
        )


def choose_buckets(f: Function) -> None:
    """Test on mixes of short chats and long documents. Any choice with the least padding is right."""
    for most in (2, 3, source.choice((2, 3)), 1):
        chats = [source.randrange(20, 90) for _ in range(12)]
        middle = [source.randrange(300, 420) for _ in range(source.randrange(2, 5))]
        long = [source.randrange(1100, 1700) for _ in range(2)]  # with 1024, two mistakes would give the same
        lengths = chats + middle + long
        source.shuffle(lengths)
        least_padding(f, lengths, most)
    for lengths, most, trap in TRAPS:
        least_padding(f, lengths, most, trap)
    few = [70, 30, 70]
    try:
        got = f(list(few), 4)
    except (ValueError, IndexError, TypeError) as e:
        raise Wrong(f"{FEW} (Yours raised {type(e).__name__}.)") from None
    if got is None:
        raise Wrong(f"{FEW} Yours returned nothing.")
    if padding(few, buckets := whole(got)) or len(set(buckets)) > 4:
        raise Wrong(f"{FEW} Yours returned {short(buckets)}.")


EXERCISES = (
    Exercise(
        "outline_faults", "ex-outline", 2, 2, 10,
        "A command is right for one version of one program. The published flags decide, not your memory.",
        ("The table above the exercise lists the flags of both commands. Look each flag of the line up.",
         f"Two answers are possible: {BELONGS!r} and {VALUE!r}. What a flag takes is in the published flags.",
         "Loop over the words that begin with --, and note those that only the other command has, and those whose "
         "next word is missing or begins with --."),
        outline_faults,
    ),
    Exercise(
        "choose_buckets", "ex-buckets", 3, 3, 20,
        "A static engine is fast at its own length and wastes every token of padding.",
        ("Which lengths are worth considering? Moving a length down to the next prompt never adds padding.",
         "Only lengths that occur, and always the longest. Try all combinations, or go through them from short to "
         "long.",
         "Write the padding as a function of the chosen lengths, and take the choice for which it is least."),
        choose_buckets,
    ),
)  # fmt: skip

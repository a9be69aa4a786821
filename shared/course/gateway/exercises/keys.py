"""The exercises `take` and `find_key`: what a key may use, and whose key it is."""

import hmac
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shared.course import registry, starter
from shared.course.exercise import Exercise, Function, Wrong, short

LAB = registry.find_lab("3.3.5")
FILE = "gateway/keys.py"


def take(f: Function) -> None:
    [exercise] = [one for one in EXERCISES if one.function == "take"]
    now = [50.0]
    with starter.installed(LAB, exercise, f) as package:

        def bucket(rate_per_s: float, burst: int) -> Any:
            return package["keys"].Bucket(rate_per_s, burst, lambda: now[0])

        full = bucket(2.0, 3)
        got = [full.take() for _ in range(3)]
        if None in got:
            raise Wrong("take returned nothing. Return 0.0 if a token was taken, else the seconds until there is one.")
        if got != [0, 0, 0]:
            raise Wrong(f"A new bucket with burst=3 gives three tokens at once: [0, 0, 0]; yours returned {got}.")
        wait_s = full.take()
        if wait_s == 0:
            raise Wrong("The bucket was empty, and take returned 0: the request got in.")
        if near(wait_s, 0.5, within=0.05) and not near(wait_s, 0.5):
            raise Wrong("Yours takes the time from another clock. The bucket has its own: self.clock().")
        if not near(wait_s, 0.5):
            raise Wrong(f"At 2 tokens a second an empty bucket has one after 0.5 s; yours returned {short(wait_s)}.")
        again_s = full.take()
        if not near(again_s, 0.5):
            raise Wrong(
                f"A refused request took a token: asked again at once, the wait must still be 0.5 s, not {again_s:g}."
            )
        now[0] += 0.25
        wait_s = full.take()
        if wait_s == 0:
            raise Wrong("Half a token was in the bucket, and take returned 0. A request needs a whole one.")
        if near(wait_s, 0.5):
            raise Wrong(
                "Half a token was in the bucket already, so only the other half is missing. Does the level keep "
                "fractions, and does the wait count them (1 - self.level)?"
            )
        if not near(wait_s, 0.25):
            raise Wrong(
                "Half the time has passed since, so half the wait is left: 0.25 s. Does the level keep fractions?"
            )
        now[0] += 0.25
        if full.take() != 0:
            raise Wrong(
                "After the announced wait there must be a token. Each call adds what has come since at_s, and moves "
                "at_s to now."
            )
        if full.take() == 0:
            raise Wrong("The same time was counted twice: move at_s to now whenever the level is brought up to date.")
        now[0] += 3600
        got = [full.take() for _ in range(4)]
        if got[:3] != [0, 0, 0]:
            raise Wrong("After a long pause the bucket is full again.")
        if got[3] == 0:
            raise Wrong(
                "After a pause of an hour more than `burst` requests came in at once: the level never exceeds it."
            )


def find_key(f: Function) -> None:
    keys_module = starter.package_of(LAB, f)["keys"]
    secret = random.Random().randbytes(16)
    tokens = [f"sk-{name}" for name in ("anna", "ben", "cleo")]
    keys = [keys_module.Key(name=t[3:], hash=keys_module.hash_of(t, secret)) for t in tokens]
    names = f.__globals__
    for number, token in enumerate([*tokens, "sk-nobody", "", keys[0].hash]):
        with counted(names) as compared:
            got = f(token, iter(keys), secret)
        wanted: Any = keys[number] if number < 3 else None
        if got is not None and wanted is None:
            if token == keys[0].hash:
                raise Wrong("The stored hash itself was accepted as a key. Hash the token: hash_of(token, secret).")
            raise Wrong(f"No key has the text {token!r}: return None. Yours returned {short(got)}.")
        if got is not wanted:
            if isinstance(got, bool):
                raise Wrong("Return the key itself (or None), since its name and its limits are needed.")
            if got is None and True in compared:
                raise Wrong(
                    f"The key {wanted.name!r} was found, and then a later comparison overwrote it: change the variable "
                    "only at a match."
                )
            if got is None:
                raise Wrong(f"The key {wanted.name!r} was not found: hash the token with hash_of(token, secret).")
            raise Wrong(f"The token is that of {wanted.name!r}; yours returned {short(got)}.")
        if not compared:
            raise Wrong(
                "`==` ends at the first byte that differs, so its time tells a caller how much was right: "
                "hmac.compare_digest."
            )
        if len(compared) < len(keys):
            raise Wrong(
                f"{len(compared)} of {len(keys)} keys were compared, so the time tells which key matched: go on "
                "after a match."
            )


@contextmanager
def counted(names: dict[str, Any]) -> Iterator[list[bool]]:
    """The results of all comparisons by compare_digest within the block, whether it is that of hmac or of secrets."""
    calls: list[bool] = []

    class Counted:
        def __init__(self, module: Any) -> None:
            self.module = module

        def __getattr__(self, name: str) -> Any:
            return getattr(self.module, name)

        def compare_digest(self, a: Any, b: Any) -> bool:
            calls.append(hmac.compare_digest(a, b))
            return calls[-1]

    before: dict[str, Any] = {name: names[name] for name in ("hmac", "secrets", "compare_digest") if name in names}
    for name, one in before.items():
        names[name] = Counted(hmac).compare_digest if name == "compare_digest" else Counted(one)
    try:
        yield calls
    finally:
        names.update(before)


def near(a: Any, b: float, within: float = 1e-6) -> bool:
    return isinstance(a, int | float) and abs(a - b) < within


EXERCISES = (
    Exercise(
        "take", "exercise-take", 2, 2, 10,
        "A key can't crowd out the others, and its client learns how long to wait.",
        (
            "No thread fills the bucket. How many tokens have come since the last call?",
            "level = min(burst, level + (now - at_s) * rate_per_s), then at_s = now.",
            "Without a whole token: return (1 - level) / rate_per_s, and take nothing.",
        ),
        take, FILE, "Bucket",
    ),
    Exercise(
        "find_key", "exercise-find-key", 1, 2, 6,
        "The time of an answer tells an attacker nothing about the keys.",
        (
            "What does the time of `==` depend on?",
            "hmac.compare_digest takes as long for a wrong hash as for a right one.",
            "Remember the match in a variable, and go on with the other keys.",
        ),
        find_key, FILE,
    ),
)  # fmt: skip

"""The exercises `in_force` and `switched_off`: two traps of Open WebUI, both measured on the real one afterwards."""

import random
from typing import Any

from shared.course.exercise import Exercise, Function, Wrong, expect_each

VALUES = ("True", "False", "smollm2", "llama3.2", "Lab")
TABLE = (  # default, first, in_page, now, copied, persistent: one input of each kind that tells two rules apart
    ("d", "f", None, "n", True, True), ("d", "f", None, None, True, True), ("d", None, None, "n", True, True),
    ("d", "f", "p", "n", True, True), ("d", None, "p", None, True, True), ("d", "f", "p", "n", True, False),
    ("d", "f", "p", None, True, False), ("d", "f", None, "n", True, False), ("d", "f", None, "n", False, True),
    ("d", "f", None, None, False, True), ("d", "", None, "n", True, True), ("d", "f", "", "n", True, True),
    ("d", None, None, "", False, True), ("d", "f", "p", "n", False, True), ("d", "f", "p", None, False, False),
)  # fmt: skip


def right_in_force(
    default: str, first: str | None, in_page: str | None, now: str | None, copied: bool, persistent: bool
) -> str:
    return given(in_page, first, default) if copied and persistent else given(now, default)


def given(*values: str | None) -> str:
    return next(one for one in values if one is not None)


def in_force(f: Function) -> None:
    texts = dict(zip("dfpn", random.sample(VALUES, 4), strict=True))
    inputs = [tuple(texts.get(one, one) if isinstance(one, str) else one for one in row) for row in TABLE]

    expect_each(f, inputs, right_in_force, {
        "The variable that is set now wins only where the database is not asked: if copied or persistent is false.":
            lambda d, f, p, n, c, k: given(n, d),
        "Is every setting copied? One that is not copied is read from the environment at each start.":
            lambda d, f, p, n, c, k: given(p, f, d) if k else given(n, d),
        "What an administrator changed in the page stands in the database, too, in place of the first value.":
            lambda d, f, p, n, c, k: given(f, d) if c and k else given(n, d),
        "With ENABLE_PERSISTENT_CONFIG=False the database is not read: neither the first value nor the page's.":
            lambda d, f, p, n, c, k: given(p, f, d) if c else given(n, d),
        "The first start copies the default of a setting that is not set. A later variable finds it there.":
            lambda d, f, p, n, c, k: given(p, f, n, d) if c and k else given(n, d),
        "An empty text is a value, as in DEFAULT_MODELS=''. Only None is missing.":
            lambda d, f, p, n, c, k: (p or f or d) if c and k else (n or d),
        "A change in the page outlives the restart only in the database.":
            lambda d, f, p, n, c, k: given(p, f, d) if c and k else given(p, n, d),
        "Not even a change in the page is kept for a setting that is not copied: the database does not have it.":
            lambda d, f, p, n, c, k: given(p, f, d) if c and k else given(n, d) if c else given(p, n, d),
    })  # fmt: skip


IN_FORCE = Exercise(
    "in_force", "ex-in-force", 2, 2, 6,
    "You can tell which settings are in force in a service that keeps a copy of them.",
    (
        "Where does a setting come from after the first start: from the environment, or from the database?",
        "For each copied setting, the database holds the last change in the page. Without one, it holds the value of "
        "the first start, which may be the default. It counts only for copied settings, if persistent is true.",
        "Two orders: page, first, default for what is copied and persistent; now, default for everything else. Take "
        "the first that is not None.",
    ),
    in_force,
)  # fmt: skip

SHOWN: tuple[dict[str, Any], ...] = (
    {"capabilities": ["completion"]}, {"capabilities": ["completion", "tools"]},
    {"capabilities": ["completion", "vision"]}, {"capabilities": ["tools", "completion", "vision"]},
    {"capabilities": []}, {"details": {"family": "llama"}},
)  # fmt: skip


def right_switched_off(shown: dict[str, Any]) -> list[str]:
    has = shown.get("capabilities", [])
    return [page for page, ollama in (("builtin_tools", "tools"), ("vision", "vision")) if ollama not in has]


def switched_off(f: Function) -> None:
    if isinstance(f(dict(SHOWN[0])), set | frozenset):
        raise Wrong("Yours returned a set, which has no order. Return a list, builtin_tools before vision.")
    expect_each(f, [(shown,) for shown in SHOWN], right_switched_off, {
        "A model that has tools keeps them: look into `capabilities`.": lambda s: ["builtin_tools", "vision"],
        "That is the other way round: switch off what the model does not have.":
            lambda s: [p for p, o in (("builtin_tools", "tools"), ("vision", "vision"))
                       if o in s.get("capabilities", [])],
        "The page also offers pictures to a model that can't see: `vision`.":
            lambda s: [] if "tools" in s.get("capabilities", []) else ["builtin_tools"],
        "Ollama calls it tools, Open WebUI's page calls it builtin_tools.":
            lambda s: [one for one in ("tools", "vision") if one not in s.get("capabilities", [])],
        "An older Ollama sends no `capabilities`. What is unknown is switched off: then the chat works.":
            lambda s: right_switched_off(s) if "capabilities" in s else [],
        "Switch off only what the page would send: tools and pictures.":
            lambda s: [o for o in ("builtin_tools", "completion", "vision") if o.removeprefix("builtin_")
                       not in s.get("capabilities", [])],
    })  # fmt: skip


SWITCHED_OFF = Exercise(
    "switched_off", "ex-switched-off", 1, 2, 4,
    "You can make a UI send a model only what the model accepts.",
    (
        "What does Ollama's /api/show list for this model, and which of Open WebUI's switches belongs to it?",
        "builtin_tools needs tools, vision needs vision. The list may be missing.",
        "shown.get('capabilities', []), then both names in this order, each if its counterpart is not in that list.",
    ),
    switched_off,
)  # fmt: skip

EXERCISES = (IN_FORCE, SWITCHED_OFF)

"""Lab 3.3.6, exercises on Open WebUI: which settings are in force, and what its page must not send."""

from typing import Any

Value = str | None


def environment_wins(d: str, f: Value, p: Value, now: Value, copied: bool, persistent: bool) -> Value:
    return now if now is not None else d


def all_copied(d: str, f: Value, p: Value, now: Value, copied: bool, persistent: bool) -> Value:
    values = (p, f, d) if persistent else (now, d)
    return next(one for one in values if one is not None)


def page_forgotten(d: str, f: Value, p: Value, now: Value, copied: bool, persistent: bool) -> Value:
    values = (f, d) if copied and persistent else (now, d)
    return next(one for one in values if one is not None)


def always_kept(d: str, f: Value, p: Value, now: Value, copied: bool, persistent: bool) -> Value:
    values = (p, f, d) if copied else (now, d)
    return next(one for one in values if one is not None)


def default_not_copied(d: str, f: Value, p: Value, now: Value, copied: bool, persistent: bool) -> Value:
    values = (p, f, now, d) if copied and persistent else (now, d)
    return next(one for one in values if one is not None)


def empty_is_missing(d: str, f: Value, p: Value, now: Value, copied: bool, persistent: bool) -> Value:
    if copied and persistent:
        return p or f or d
    return now or d


def page_everywhere(d: str, f: Value, p: Value, now: Value, copied: bool, persistent: bool) -> Value:
    values = (p, f, d) if copied and persistent else (p, now, d)
    return next(one for one in values if one is not None)


def page_where_not_copied(d: str, f: Value, p: Value, now: Value, copied: bool, persistent: bool) -> Value:
    return in_force_otherwise(d, f, p, now, copied, persistent) if copied or p is None else p


def in_force_otherwise(d: str, f: Value, p: Value, now: Value, copied: bool, persistent: bool) -> Value:
    found = d
    for one in (f, p) if copied and persistent else (now,):
        found = found if one is None else one
    return found


def everything_off(shown: dict[str, Any]) -> list[str]:
    return ["builtin_tools", "vision"]


def inverted(shown: dict[str, Any]) -> list[str]:
    has = shown.get("capabilities", [])
    return (["builtin_tools"] if "tools" in has else []) + (["vision"] if "vision" in has else [])


def pictures_forgotten(shown: dict[str, Any]) -> list[str]:
    return [] if "tools" in shown.get("capabilities", []) else ["builtin_tools"]


def ollamas_names(shown: dict[str, Any]) -> list[str]:
    return [one for one in ("tools", "vision") if one not in shown.get("capabilities", [])]


def unknown_is_fine(shown: dict[str, Any]) -> list[str]:
    if "capabilities" not in shown:
        return []
    return switched_off_otherwise(shown)


def switched_off_otherwise(shown: dict[str, Any]) -> list[str]:
    has = set(shown.get("capabilities") or ())
    found = []
    if "tools" not in has:
        found.append("builtin_tools")
    if "vision" not in has:
        found.append("vision")
    return found


def as_a_set(shown: dict[str, Any]) -> set[str]:
    return set(switched_off_otherwise(shown))


ANSWERS = {
    "in_force": [
        ("wins only where the database is not asked", environment_wins),
        ("Is every setting copied?", all_copied),
        ("in place of the first value", page_forgotten),
        ("the database is not read", always_kept),
        ("The first start copies the default", default_not_copied),
        ("An empty text is a value", empty_is_missing),
        ("outlives the restart only in the database", page_everywhere),
        ("for a setting that is not copied", page_where_not_copied),
    ],
    "switched_off": [
        ("A model that has tools keeps them", everything_off),
        ("the other way round", inverted),
        ("also offers pictures", pictures_forgotten),
        ("calls it builtin_tools", ollamas_names),
        ("What is unknown is switched off", unknown_is_fine),
        ("a set, which has no order", as_a_set),
    ],
}

RIGHT = {"in_force": in_force_otherwise, "switched_off": switched_off_otherwise}

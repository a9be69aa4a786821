"""Which engines were verified on which hardware, from the ledgers that `make verify-spark` writes.

    print(verified.banner())        # "Not verified on hardware: ..." until a ledger proves it

A ledger counts only for the versions that it names, so it doesn't verify another image tag.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import paths
from shared.engines import ENGINES
from shared.errors import LabError
from shared.launch import containers

LEDGERS = paths.REPO / "environment" / "verified"
SCHEMA = 1


@dataclass(frozen=True)
class Verified:
    """One engine's image that passed every check on one machine."""

    engine: str
    image: str  # with its tag, as in images.toml
    machine: str
    date: str


def ledgers() -> list[tuple[Path, Mapping[str, Any]]]:
    """Every committed ledger. Raises LabError for one that can't be read."""
    found = []
    for file in sorted(LEDGERS.glob("*.json")):
        try:
            ledger = json.loads(file.read_text())
            if ledger["schema"] != SCHEMA:
                raise LabError(
                    f"{paths.show(file)} has schema {ledger['schema']}, but these labs read {SCHEMA}.",
                    "make verify-spark (it writes a new file)",
                )
        except (ValueError, KeyError, TypeError) as e:
            raise LabError(f"{paths.show(file)} is not a ledger: {e!r}.", f"git checkout {paths.show(file)}") from None
        found.append((file, ledger))
    return found


def verified(engine: str) -> Verified | None:
    """The newest proof that this engine passed every check in the image that images.toml names now; else None."""
    image = containers.images()[ENGINES[engine].container.image]
    proofs = [
        Verified(engine, row["image"], ledger["machine"]["name"], ledger["date"])
        for _, ledger in ledgers()
        for name, row in ledger["engines"].items()
        if name == engine
        and row["image"] == f"{image.image}:{image.tag}"
        and row["checks"]
        and all(check["ok"] for check in row["checks"])
    ]
    return max(proofs, key=lambda proof: proof.date, default=None)


def banner() -> str:
    """Sentences for the head of a notebook and the README: which engines' containers were verified where."""
    proofs = {name: verified(name) for name in ENGINES}
    done = [
        f"{ENGINES[name].title} ({proof.image}) on {proof.machine}, {proof.date}"
        for name, proof in proofs.items()
        if proof
    ]
    rest = [ENGINES[name].title for name, proof in proofs.items() if not proof]
    text = f"Verified on hardware: {'; '.join(done)}. " if done else ""
    if rest:
        text += (
            f"Not verified on hardware: the {'container of ' if len(rest) == 1 else 'containers of '}"
            f"{listed(rest)}. The authors had no DGX Spark; if you have one, run `make verify-spark`."
        )
    return text.strip()


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

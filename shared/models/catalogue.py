"""The models of machines with an NVIDIA GPU, as environment/containers/catalogue.toml lists them.

catalogue.entry("llama-3.1-8b-instruct").sources["hf BF16"].repository
catalogue.loads()["3.3.4"]        # what a lab loads, by the keys of a model's sources and drafts
"""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared import paths

FILE = paths.REPO / "environment" / "containers" / "catalogue.toml"
LLAMA_8B, QWEN_1B = "llama-3.1-8b-instruct", "qwen3-1.7b"


@dataclass(frozen=True)
class Source:
    """One set of weights on Hugging Face."""

    repository: str
    revision: str = ""  # commit hash; "" is unknown: whoever downloads resolves it and writes it down
    file: str = ""  # one GGUF's name; "" is all safetensors of the repository
    bytes: int | None = None  # of the weights
    licence: str = ""
    gated: bool = False  # needs an account that has accepted the licence, and HF_TOKEN
    ungated: str = ""  # a repository with the same weights and no gate; "" if it needs none, or none is known
    checked: str = ""  # when this was looked up
    source: str = ""  # where

    @property
    def pinned(self) -> str:
        """What a result says of its weights: repository@revision."""
        return f"{self.repository}@{self.revision or 'unknown'}"


@dataclass(frozen=True)
class CatalogueEntry:
    """A published model: its shape, its sources by "<what an engine reads> <precision>", the drafts that fit it."""

    name: str
    parameters: int
    lookup: int  # of them in an input embedding of its own: looked up, not read whole at every step
    output: int  # of them in the output matrix
    layers: int  # that keep keys and values
    kv_heads: int
    head_dim: int
    context: int
    system: str
    sources: Mapping[str, Source]
    drafts: Mapping[str, Source] = field(default_factory=dict)
    note: str = ""


@functools.cache
def _table() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text())


@functools.cache
def entries() -> Mapping[str, CatalogueEntry]:
    """Every model, by its name."""

    def sources(rows: Mapping[str, Any]) -> dict[str, Source]:
        return {key: Source(**row) for key, row in rows.items()}

    return {
        name: CatalogueEntry(
            **{**row, "name": name, "sources": sources(row["sources"]), "drafts": sources(row.get("drafts", {}))}
        )
        for name, row in _table()["models"].items()
    }


def entry(name: str) -> CatalogueEntry:
    return entries()[name]


@functools.cache
def mirrors() -> Mapping[str, Source]:
    """Copies that need no account, by the gated repository."""
    return {repository: Source(**row) for repository, row in _table()["mirrors"].items()}


@functools.cache
def loads() -> Mapping[str, tuple[str, ...]]:
    """What each lab loads, by the keys of a model's sources and drafts."""
    return {lab: tuple(keys) for lab, keys in _table()["loads"].items()}

"""The models for machines with an NVIDIA GPU, read from environment/containers/catalogue.toml.

catalogue.entry("llama-3.1-8b-instruct").sources["hf BF16"].repository
catalogue.loads()["3.3.4"]        # the keys of the sources and drafts that a lab loads
"""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared import paths

FILE = paths.REPO / "environment" / "containers" / "catalogue.toml"
ANOTHER_MODEL = "choose another model, for example: make LABS_MODEL=Qwen/Qwen3-0.6B lab"  # the fix in several errors
LLAMA_8B, QWEN_1B = "llama-3.1-8b-instruct", "qwen3-1.7b"


@dataclass(frozen=True)
class Source:
    """One set of weights on Hugging Face."""

    repository: str
    revision: str = ""  # commit hash; "" if unknown: a download resolves and records it
    file: str = ""  # the name of one GGUF; "" for all safetensors of the repository
    bytes: int | None = None  # of the weights
    licence: str = ""
    gated: bool = False  # needs HF_TOKEN of an account that has accepted the licence
    ungated: str = ""  # an ungated repository with the same weights; "" if not needed or not known
    checked: str = ""  # the date when these facts were looked up
    source: str = ""  # where they were found

    @property
    def pinned(self) -> str:
        """The weights as a result records them: repository@revision."""
        return f"{self.repository}@{self.revision or 'unknown'}"


@dataclass(frozen=True)
class CatalogueEntry:
    """A published model: its shape, its drafts, and its sources by format and precision, such as "hf BF16"."""

    name: str
    parameters: int
    lookup: int  # of these, in a separate input embedding: looked up, not read whole at every step
    output: int  # of these, in the output matrix
    layers: int  # that store keys and values
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
    """Every model by its name."""

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
    """Copies that need no account, by the repository of the gated original."""
    return {repository: Source(**row) for repository, row in _table()["mirrors"].items()}


@functools.cache
def loads() -> Mapping[str, tuple[str, ...]]:
    """The keys of the sources and drafts that each lab loads."""
    return {lab: tuple(keys) for lab, keys in _table()["loads"].items()}

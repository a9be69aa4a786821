"""Figures that others published for a DGX Spark, and the course outline's ratings: quoted, never measured here.

    published.record()              # into the ledger, each with its source and date
    published.figures(entries), published.confronted(entries, ...)      # as tables

The authors of this lab had no Spark. A figure of one owner is a single report: measure it again before you rely on it.
"""

import functools
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from shared import paths
from shared.engines import ENGINES
from shared.metrics.roofline import SPARK
from shared.metrics.spread import number
from shared.models import catalogue
from shared.report.table import Table
from shared.results import ledger
from shared.results.reading import Entries, Entry

LAB = "3.3.1"
FILE = paths.REPO / "environment" / "containers" / "published.toml"


@dataclass(frozen=True)
class Quote:
    """One published result of one engine on one Spark; rates in tokens per second, None where none was given."""

    engine: str
    model: str
    precision: str
    prefill_tok_s: float | None
    decode_tok_s: float | None  # of one user
    many: tuple[int, float] | None  # (users at once, tok/s of all together)
    source: str
    date: str
    note: str = ""

    @property
    def key(self) -> str:
        words = f"{self.engine}-{self.model}-{self.precision}{'-mtp' if 'multi-token' in self.note else ''}"
        return "published/" + "-".join(words.lower().replace(".", "").split())


@dataclass(frozen=True)
class Stars:
    """One row of the outline's overview of engines, and of its table of speeds with an 8B model."""

    engine: str
    prefill: int  # of five
    decode: int
    best_for: str
    prefill_tok_s: float
    decode_tok_s: float
    verdict: str  # how the quotes above compare with it


@functools.cache
def _table() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text())


@functools.cache
def quotes() -> tuple[Quote, ...]:
    """Every published figure of environment/containers/published.toml."""
    found = []
    for row in _table()["quote"]:
        many = (row["users"], row["total_tok_s"]) if "users" in row else None
        rates = (row.get("prefill_tok_s"), row.get("decode_tok_s"), many)
        origin = (row["source"], row["date"], row.get("note", ""))
        found.append(Quote(row["engine"], row["model"], row["precision"], *rates, *origin))
    return tuple(found)


@functools.cache
def outline() -> tuple[Stars, ...]:
    """The rows of the outline's overview."""
    return tuple(Stars(**row) for row in _table()["outline"]["row"])


def llama_8b_read() -> int:
    """How many weights a decode step of the outline's 8B model reads."""
    model = catalogue.entry(catalogue.LLAMA_8B)
    return model.parameters - model.lookup


NOT_MEASURABLE = "not measurable here"  # on a machine without a GPU, which measures only the engines' CPU paths


def record(lab: str = LAB) -> None:
    """Record every quote in the ledger, as quoted."""
    for quote in quotes():
        values = {name: value for name, value in asdict(quote).items() if name not in ("source", "date")}
        ledger.record(lab, quote.key, values, kind=f"quoted: {quote.source}, {quote.date}")
    for row in outline():
        ledger.record(lab, f"outline/{row.engine}", asdict(row), kind=f"quoted: {_table()['outline']['source']}")


def quoted(entries: Entries, prefix: str) -> list[Entry]:
    return [entry for key, entry in entries.items() if key.startswith(prefix) and entry["kind"].startswith("quoted")]


def source(entry: Entry) -> str:
    return str(entry["kind"]).removeprefix("quoted: ")


def figures(entries: Entries) -> Table:
    """Every quote of the ledger, with its source."""
    rows = []
    for entry in quoted(entries, "published/"):
        v = entry["values"]
        many = f"{number(v['many'][1])} ({v['many'][0]} users)" if v["many"] else "–"
        rates = (number(v[name]) if v[name] else "–" for name in ("prefill_tok_s", "decode_tok_s"))
        note = f"; {v['note']}" if v["note"] else ""
        rows.append((ENGINES[v["engine"]].title, f"{v['model']}, {v['precision']}", *rates, many, source(entry) + note))
    header = ("engine", "model", "prefill, tok/s", "one user, tok/s", "many, tok/s", "quoted from")
    return Table("Figures that others published for a DGX Spark", header, rows)


def stars(count: int) -> str:
    return "★" * count + "☆" * (5 - count)


def confronted(entries: Entries, bits: Callable[[float, float, float], float], here: str) -> Table:
    """The outline's rows, the most bits per weight that each speed allows, and this machine's part (`here`).

    `bits` takes decode tok/s, parameters and bandwidth in GB/s, and returns the most bits that a weight can have had.
    """
    rows = []
    for entry in quoted(entries, "outline/"):
        v = entry["values"]
        most = bits(v["decode_tok_s"], llama_8b_read(), SPARK.bandwidth_gb_s)
        rows.append(
            (
                ENGINES[v["engine"]].title,
                f"{stars(v['prefill'])} {v['prefill_tok_s']:,} tok/s",
                f"{stars(v['decode'])} {v['decode_tok_s']} tok/s: at most {most:.1f} bits per weight",
                v["best_for"],
                here,
            )
        )
    header = ("engine", "outline: prefill", "outline: decode, 8B", "outline: best for", "this machine")
    return Table("The outline (quoted), and the most bits per weight that each speed allows on a Spark", header, rows)


def verdicts(entries: Entries) -> str:
    """Later published figures for each row of the outline, as a Markdown list."""
    rows = (entry["values"] for entry in quoted(entries, "outline/"))
    return "\n".join(f"- **{ENGINES[v['engine']].title}:** {v['verdict']}" for v in rows)

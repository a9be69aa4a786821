"""What others published about a DGX Spark, and what the course outline says of the engines: quoted, never measured.

    published.record("3.3.1")       # into the ledger, each with its source and date
    published.figures(entries), published.confronted(entries, ...)      # as tables

Nobody who wrote this had a Spark. A figure of one owner is one report: believe it after you have measured it.
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
    verdict: str  # what the quotes above say of it


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
    """The weights that a decode step of the outline's 8B model reads."""
    model = catalogue.entry(catalogue.LLAMA_8B)
    return model.parameters - model.lookup


NOT_MEASURABLE = "not measurable here"  # of a CPU: it ranks the engines' CPU paths, not what they do on a GPU


def record(lab: str) -> None:
    """Each quote into the ledger, as what it is."""
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
    """Every quote of the ledger, each with where it is from."""
    rows = []
    for entry in quoted(entries, "published/"):
        v = entry["values"]
        many = f"{number(v['many'][1])} ({v['many'][0]} users)" if v["many"] else "–"
        rates = (number(v[name]) if v[name] else "–" for name in ("prefill_tok_s", "decode_tok_s"))
        note = f"; {v['note']}" if v["note"] else ""
        rows.append((ENGINES[v["engine"]].title, f"{v['model']}, {v['precision']}", *rates, many, source(entry) + note))
    header = ("engine", "model", "prefill, tok/s", "one user, tok/s", "many, tok/s", "quoted from")
    return Table("Published for a DGX Spark", header, rows)


def stars(count: int) -> str:
    return "★" * count + "☆" * (5 - count)


def confronted(entries: Entries, bits: Callable[[float, float, float], float], here: str) -> Table:
    """The outline's rows beside what was published and what this machine can say of them (`here`).

    `bits` (decode tok/s, parameters, bandwidth in GB/s) says how many bits a weight can have had at that speed.
    """
    rows = []
    for entry in quoted(entries, "outline/"):
        v = entry["values"]
        most = bits(v["decode_tok_s"], llama_8b_read(), SPARK.bandwidth_gb_s)
        rows.append(
            (
                ENGINES[v["engine"]].title,
                f"{stars(v['prefill'])} {v['prefill_tok_s']:,} tok/s",
                f"{stars(v['decode'])} {v['decode_tok_s']} tok/s: at most {most:.1f} bits a weight",
                v["best_for"],
                here,
            )
        )
    header = ("engine", "outline: prefill", "outline: decode, 8B", "outline: best for", "this machine")
    return Table("The outline's stars, confronted", header, rows)


def verdicts(entries: Entries) -> str:
    """What was published since says of each row of the outline, as a list in Markdown."""
    rows = (entry["values"] for entry in quoted(entries, "outline/"))
    return "\n".join(f"- **{ENGINES[v['engine']].title}:** {v['verdict']}" for v in rows)

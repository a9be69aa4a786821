"""Lab 3.3.4 on a DGX Spark: how three engines are told to draft for an 8B model, and what others measured.

Nothing here was run on a Spark. The flags come from the engines' descriptions in `shared/engines/`, so they are those
with which `launch` would start the containers. The figures are quoted from
`environment/containers/published_speculation.toml`.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from shared import paths
from shared.engines import ENGINES, Draft, as_arguments
from shared.metrics.spread import number
from shared.models import catalogue
from shared.report.table import Table
from shared.results import ledger
from shared.results.reading import Entries

LAB = "3.3.4"
FILE = paths.REPO / "environment" / "containers" / "published_speculation.toml"
SPARK = "DGX Spark"
SIZES: Mapping[str, Mapping[str, object]] = {  # 16 users with 4096 tokens each
    "sglang": {"--max-running-requests": 16, "--max-total-tokens": 16 * 4096, "--context-length": 4096},
    "vllm": {"--max-num-seqs": 16, "--max-model-len": 4096},
    "trtllm": {"--max_batch_size": 16, "--max_seq_len": 4096},
}


def start_flags(k: int = 3) -> dict[str, str]:
    """For each of three engines its flags with an EAGLE-3 head and k drafts, one a line, under a title."""
    drafts = catalogue.entry(catalogue.LLAMA_8B).drafts
    found = {}
    for name, sizes in SIZES.items():
        spec = ENGINES[name]
        assert spec.container.speculate is not None
        flags = {**sizes, **spec.container.speculate(Draft("eagle3", k), drafts[f"{name} EAGLE-3"].repository)}
        arguments = {flag: value for flag, value in flags.items() if flag.startswith("-")}
        lines = [" ".join(as_arguments({flag: value})) for flag, value in arguments.items()]
        in_file = {key: value for key, value in flags.items() if key not in arguments}
        if in_file:
            lines.append(f"--config, a file with: {json.dumps(in_file)}")
        found[f"{spec.title}, Llama-3.1-8B with EAGLE-3, {k} drafts"] = "\n".join(lines)
    return found


def record() -> None:
    """Record every published pair in the ledger, as quoted."""
    for one in tomllib.loads(FILE.read_text())["pair"]:
        words = f"{one['machine']} {one['engine']} {one['model']}".lower().replace(".", "")
        values = {name: value for name, value in one.items() if name not in ("source", "date")}
        key = "published/" + "-".join(words.split())
        ledger.record(LAB, key, values, kind=f"quoted: {one['source']}, {one['date']}")


def pairs(entries: Entries) -> list[dict[str, Any]]:
    """The quoted pairs of the ledger, each with its source."""
    return [
        {**entry["values"], "source": str(entry["kind"]).removeprefix("quoted: ")}
        for key, entry in entries.items()
        if key.startswith("published/") and entry["kind"].startswith("quoted")
    ]


def figures(entries: Entries) -> Table:
    """Every quoted pair: the speed-up of one user, that of many users, and the source."""
    rows = []
    for one in pairs(entries):
        many = f"{ratio(one['many'])} ({one['users']} users)" if "many" in one else "–"
        drafted = one["plain"], one["drafted"]
        title = f"{ENGINES[one['engine']].title}, {one['model']}, {one['draft']}"
        note = f"; {one['note']}" if "note" in one else ""
        rows.append((one["machine"], title, f"{ratio(drafted)}", many, one["source"] + note))
    header = ("machine", "engine, model, draft", "one user, tok/s", "many users, tok/s", "quoted from")
    return Table("Speed-ups that others published", header, rows)


def ratio(rates: Sequence[float]) -> str:
    """(8.2, 13.8) → "1.68 times: 8.2 to 13.8"."""
    plain, drafted = rates
    return f"{drafted / plain:.2f} times: {number(plain)} to {number(drafted)}"


def expected(entries: Entries) -> str:
    """The range of the quoted speed-ups for one user on a Spark, as a sentence."""
    here = [one["drafted"] / one["plain"] for one in pairs(entries) if one["machine"] == SPARK]
    eagle = sum("EAGLE" in one["draft"] for one in pairs(entries) if one["machine"] == SPARK)
    return (
        f"On a Spark the quoted speed-ups for one user lie between {min(here):.2f} and {max(here):.2f} times. "
        f"{eagle} of these {len(here)} reports use EAGLE-3, and none of them an 8B model."
    )

"""The table of the scale-out benchmark: its rows and columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.load import users_text
from shared.metrics.spread import Spread
from shared.report.table import Table
from shared.results.scale_out import SYSTEMS, Cells

SHOWS = """\
What this table shows: how many requests are lost when a replica dies, how soon a new one answers, and what an ingress
or a gateway adds to the time to first token.
What it doesn't show: how much faster two replicas are than one. All systems run on the same cores, and each of two
replicas computes with half of them. On a second machine, a replica would have cores, or a GPU, of its own.
Ray starts a killed replica again by itself. The gateway only stops asking an engine that has failed, and asks it again
once it answers: the killed vLLM server was started again by this benchmark, as systemd or Docker would do it."""


@dataclass(frozen=True)
class Row:
    """One row: its key in the cells, and its title with the unit."""

    key: str
    title: str


def rows(users: Iterable[int]) -> list[Row]:
    """All rows for loads with these numbers of users."""
    counts = list(users)
    return [
        *(Row(f"tok_s/{n}", f"output of {users_text(n)}, tok/s") for n in counts),
        *(Row(f"ttft_ms/{n}", f"time to first token, {users_text(n)}, ms") for n in counts),
        Row("tokens_per_block", "tokens that arrive together, mean"),
        Row("failed", "failed requests of these loads"),
        Row("startup_s", "from the start command until ready, s"),
        Row("memory_gib", "memory of all processes, GiB"),
        Row("kill_requests", "requests while a replica was killed"),
        Row("kill_failed", "of these failed"),
        Row("kill_gap_s", "longest time without an answer, s"),
        Row("kill_recovery_s", "from the kill to the first answer of a new replica, s"),
    ]


def table(columns: Mapping[str, Cells], users: Sequence[int]) -> Table:
    """Medians with their ranges; a column for each system that was measured. An empty cell was not measured."""
    shown = [name for name in SYSTEMS if name in columns]
    body = [[row.title, *(cell(columns[name].get(row.key, ())) for name in shown)] for row in rows(users)]
    return Table("", ["", *(SYSTEMS[name] for name in shown)], body)


def cell(values: Sequence[float]) -> str:
    return str(Spread.of(values) or "")

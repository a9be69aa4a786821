"""Tables, and long texts that open with a click."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from IPython.display import display
from tabulate import tabulate

CAPTION = "caption-side: top; text-align: left; font-weight: bold; padding: .3em 0"


@dataclass(frozen=True)
class Table:
    """Cells of text under a title."""

    title: str  # "" if there is a heading above the table
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        head = "".join(f"<th>{html.escape(h)}</th>" for h in self.header)
        body = "".join("<tr>" + "".join(map(html_cell, row)) + "</tr>" for row in self.rows)
        caption = f'<caption style="{CAPTION}">{html.escape(self.title)}</caption>' if self.title else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def markdown(self) -> str:
        header, *rows = ([cell.replace("|", "\\|") for cell in line] for line in (self.header, *self.rows))
        # Cells are texts already. Parsed as numbers, 7.50 would become 7.5.
        table = tabulate(rows, header, tablefmt="github", disable_numparse=True)
        return f"**{self.title}**\n\n{table}" if self.title else table


def html_cell(text: str) -> str:
    """Align words to the left. Numbers stay on the right, which is JupyterLab's default."""
    left = "" if text[:1].isdigit() else " style='text-align:left'"
    return f"<td{left}>{html.escape(text)}</td>"


def folded(texts: Mapping[str, str]) -> None:
    """Display long texts, each folded under its title until a click opens it. As plain text they follow each other."""
    page = "".join(
        f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
        for title, text in texts.items()
    )
    plain = "\n\n".join(f"{title}:\n{text}" for title, text in texts.items())
    display({"text/html": page, "text/plain": plain}, raw=True)

"""No sentence of an Explain box can be refuted by a run: what states a figure or a comparison is held by something.

Every such sentence stands in statements.toml with what holds it: a cell that computes it (`cell`, and `output`, a
pattern that the cell's kept output matches), or a published source (`source`), or the mechanism that makes it true
whatever is measured (`because`). A new sentence fails here until someone has thought about what holds it.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from shared.course import checks, registry
from shared.course.registry import Lab

HELD = tomllib.loads(Path(__file__).with_name("statements.toml").read_text())
LABS = [lab for lab in registry.LABS.values() if lab.number in HELD]
NUMBER = r"\d"
COMPARING = (
    r"\b(?:never|always|same|equal|no engine|no one|none|nothing|every(?:one|body)?|most|hardly|nearly|almost|twice|"
    r"half|double\w*|times|more|less|fewer|faster|slower|\w+er than|longer|shorter|larger|smaller|higher|lower|"
    r"better|worse|best|worst|grows?|grew|rises?|rose|falls?|fell|gain(?:s|ed)?|lost|wins?|won|cheaper)\b"
)
CODE_AND_LINKS = re.compile(r"`[^`]*`|\]\([^)]*\)|<[^>]+>")


def explain_boxes(lab: Lab) -> list[tuple[str, str]]:
    """(cell id, text) of every Explain box."""
    cells = checks.notebook(lab)["cells"]
    return [(c["id"], c["source"]) for c in cells if c["cell_type"] == "markdown" and "**Explain.**" in c["source"]]


def sentences(text: str) -> list[str]:
    """The sentences of a text, without markup."""
    plain = re.sub(r"\s+", " ", CODE_AND_LINKS.sub(" ", text).replace("*", ""))
    return [one.strip() for one in re.split(r"(?<=[.?!:])\s+(?=[A-Z“(])", plain) if one.strip()]


def stating(sentence: str) -> bool:
    """Whether the sentence states a figure or a comparison. A question states nothing."""
    if sentence.endswith("?"):
        return False
    return bool(re.search(NUMBER, sentence) or re.search(COMPARING, sentence, re.I))


def statements(lab: Lab) -> list[tuple[str, str]]:
    """(cell id, sentence) of everything that a run could refute."""
    return [(cell, one) for cell, text in explain_boxes(lab) for one in sentences(text) if stating(one)]


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.number)
def test_every_statement_is_held_by_something(lab: Lab) -> None:
    known = HELD[lab.number]
    loose = [(cell, one) for cell, one in statements(lab) if not any(one.startswith(e["says"]) for e in known)]
    assert loose == [], "put it into statements.toml with what holds it, or let the cell compute it"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.number)
def test_what_holds_a_statement_is_there(lab: Lab) -> None:
    there = [one for _, one in statements(lab)]
    cells = {cell["id"]: cell for cell in checks.notebook(lab)["cells"]}
    for entry in HELD[lab.number]:
        says = entry["says"]
        assert len(entry.keys() & {"cell", "source", "because"}) == 1, says
        assert any(one.startswith(says) for one in there), f"no such sentence any more: {says}"
        if "cell" in entry:
            assert cells[entry["cell"]]["cell_type"] == "code"
            assert re.search(entry["output"], output(cells[entry["cell"]]), re.S), (
                f"{says}: not in {entry['cell']}'s output"
            )


def output(cell: dict[str, Any]) -> str:
    """What the kept run printed and showed, as text."""
    parts = []
    for one in cell.get("outputs", []):
        data = one.get("data", {})
        parts += [
            one.get("text", ""),
            data.get("text/plain", ""),
            data.get("text/html", ""),
            data.get("text/markdown", ""),
        ]
    return "\n".join("".join(part) for part in parts)


def test_figures_and_comparisons_are_recognised() -> None:
    assert stating("It takes 12 ms.")
    assert stating("Chunks never cost throughput.")
    assert stating("The gap grows with the batch.")
    assert not stating("Which of the two is faster?")
    assert not stating("The scheduler admits requests in order.")
    assert sentences("**Explain.** A `x 3` b. It *is* so.") == ["Explain.", "A b.", "It is so."]

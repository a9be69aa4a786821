"""Notebooks and pages are spelt right: by an English dictionary and a list of the field's own words."""

import re
from functools import cache
from pathlib import Path

import nbformat
import pytest
from spellchecker import SpellChecker

from shared import paths

PAGES = [
    *sorted((paths.REPO / "solutions").glob("*.ipynb")),
    *(paths.REPO / name for name in ("README.md", "environment/OUTLINE.md", "environment/small_model/MODEL_CARD.md")),
    paths.REPO / "environment" / "gateway" / "README.md",
]
NO_PROSE = re.compile(r"```.*?```|`[^`]*`|\$\$?[^$]*\$\$?|<[^>]*>|\]\([^)]*\)|https?://\S+", re.S)


@cache
def dictionary() -> SpellChecker:
    known = SpellChecker(language="en")
    known.word_frequency.load_words((Path(__file__).parent / "helpers" / "words.txt").read_text().split())
    return known


def words(text: str) -> set[str]:
    """The words of Markdown's prose in lower case. What has a capital inside is a name (vLLM), and is left out."""
    found = set()
    for word in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", NO_PROSE.sub(" ", text)):
        plain = re.sub(r"['’]s?$", "", word.replace("’", "'"))
        if len(plain) > 2 and (plain.islower() or plain.istitle()):
            found.add(plain.lower())
    return found


def prose(file: Path) -> str:
    if file.suffix == ".md":
        return file.read_text()
    cells = nbformat.read(file, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("file", PAGES, ids=lambda f: f.name)
def test_every_word_is_known(file: Path) -> None:
    seen = words(prose(file))
    assert len(seen) > 50
    assert sorted(dictionary().unknown(seen)) == [], "misspelt; or a word of the field, for tests/helpers/words.txt"


def test_a_misspelt_word_is_found() -> None:
    seen = words("The througput of `vllm serv` is **measurd** here; vLLM’s isn't in [it](http://x.yz/wrogn).")
    assert dictionary().unknown(seen) == {"througput", "measurd"}

"""Output on a terminal that isn't UTF-8: signs that it lacks become ASCII, so that no command dies at an arrow."""

import codecs
import io
import locale
import os
import sys
import unicodedata

SIGNS = {
    "→": "->", "←": "<-", "✔": "v", "✘": "x", "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "·": "*", "≥": ">=",
    "≤": "<=", "“": '"', "”": '"', "‘": "'", "’": "'", "±": "+/-", "─": "-", "│": "|", "█": "#", "●": "*", "○": "o",
}  # fmt: skip
PLAIN = "labs.plain"  # the name of the error handler


def adapt() -> None:
    """Make standard output and standard error write every text, whatever their encoding is.

    Python's UTF-8 mode, in which `make` runs the labs so that files are read as UTF-8, ignores the terminal's encoding.
    It is restored here, unless PYTHONIOENCODING names another one.
    """
    codecs.register_error(PLAIN, plain)
    of_locale = codecs.lookup(locale.getencoding()).name
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):  # a notebook's, or none
            continue
        encoding = codecs.lookup(stream.encoding).name
        # ASCII stands for no locale (C, POSIX), where Python itself chooses UTF-8.
        if encoding == "utf-8" and of_locale != "ascii" and not os.environ.get("PYTHONIOENCODING"):
            encoding = of_locale
        if encoding != "utf-8":
            stream.reconfigure(encoding=encoding, errors=PLAIN)


def plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler for codecs: the signs that can't be encoded in ASCII, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    there = error.object[error.start : error.end]
    return "".join(SIGNS.get(sign) or without_marks(sign) for sign in there), error.end


def without_marks(sign: str) -> str:
    """The ASCII characters of which a sign is made up (é → e), or ? if there are none."""
    parts = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return parts or "?"

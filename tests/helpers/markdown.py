"""Tables in Markdown, as tests compare them."""

import re


def unaligned(text: str) -> str:
    """The text with every run of blanks as one, so that a row doesn't depend on the widths of its columns."""
    return re.sub(" +", " ", text)

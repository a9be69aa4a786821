"""The error for everything that a student can fix."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


class LabError(Exception):
    """One sentence (what was tried, expected, found), then the fix.

    Notebooks show only the message, because the traceback of a user's mistake is noise.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message + (f"\nFix: {fix}" if fix else ""))
        self.fix = fix

    def _render_traceback_(self) -> list[str]:
        """IPython calls this instead of printing a traceback."""
        return str(self).splitlines()


def command(main: Callable[P, int | None]) -> Callable[P, int]:
    """Make a `main` that returns the exit status: 1 for a LabError, whose text goes to stderr, and 130 for Ctrl-C."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except LabError as e:
            print(e, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130

    return run

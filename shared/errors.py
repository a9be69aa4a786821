"""The error for everything that a student can fix."""


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

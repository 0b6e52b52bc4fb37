"""The one error for mistakes a user can mend."""

from __future__ import annotations

from collections.abc import Sized


class UserError(ValueError):
    """Something is wrong with what came in: `message` says what, `hint` says what to do about it."""

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message, hint)  # both in args: the error survives pickling between processes
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}; {self.hint}"


def missing_of(missing: Sized, wanted: Sized) -> str:
    """What follows the name of the first missing thing: ` (3 of 12 are missing)`; nothing where it is the only one."""
    return f" ({len(missing)} of {len(wanted)} are missing)" if len(missing) > 1 else ""

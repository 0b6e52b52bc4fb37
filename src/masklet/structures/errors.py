"""The one error for mistakes a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Something is wrong with what came in: `message` says what, `hint` says what to do about it."""

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message, hint)  # both in args: the error survives pickling between processes
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}; {self.hint}"

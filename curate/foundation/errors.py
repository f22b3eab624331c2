"""The exception tree; one exit code a branch.

    GristmillError
    ├── DataError        1   the data failed a check (law, digest, alarm, expectation)
    ├── UsageError       2   a flag, a path or a recipe is wrong
    ├── MachineError     3   disk full, lock held, worker killed, no permission
    │   ├── LockHeld
    │   ├── MissingExtra
    │   └── Offline
    └── Interrupted    130   Ctrl-C; whatever was finished is kept

An error says what happened (file, row), why, and one hint: the command to run next.
"""

from __future__ import annotations


class GristmillError(Exception):
    """Base of every error a user can cause; carries an exit code and a one-line hint."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders; keyword-only hints would be lost by the default protocol.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[GristmillError], message: str, hint: str) -> GristmillError:
    return kind(message, hint=hint)


class DataError(GristmillError):
    """The data failed a check: a law, a digest, an alarm."""

    exit_code = 1


class UsageError(GristmillError):
    """A flag, a path or a recipe is wrong."""

    exit_code = 2


class MachineError(GristmillError):
    """The machine got in the way: disk full, a killed worker, no permission."""

    exit_code = 3


class LockHeld(MachineError):
    """Another process works on the same folder."""


class MissingExtra(MachineError):
    """An optional dependency is not installed."""


class Offline(MachineError):
    """A hub was needed and could not be reached."""


class Interrupted(GristmillError):
    """Ctrl-C or SIGTERM; finished units are kept."""

    exit_code = 130

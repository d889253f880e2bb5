"""What a command is, and how it says that it was told something that it cannot do."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator


class UsageError(Exception):
    """The arguments cannot be followed; the message says why. Exit code 2."""


class Command(ABC):
    """A frozen dataclass: its fields are the arguments, and its docstring is the help."""

    @abstractmethod
    def run(self) -> None:
        """Do it, and write what it gives to the standard output.

        Raises:
            UsageError: the arguments cannot be followed.
            Exception: anything else is a run that failed.
        """


@contextlib.contextmanager
def as_usage_errors() -> Iterator[None]:
    """Turn what refuses a value, a file or a missing package into a :class:`UsageError`."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(str(error)) from error

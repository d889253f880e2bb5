"""Packages that only some parts need: an extra of ours installs them, and its error names it."""

from __future__ import annotations

from types import TracebackType


class NeedsExtra:
    """Around imports: one that fails because a package is not installed names the extra.

    Args:
        extra: of this package; ``pip install 'ray_autolrs[extra]'`` brings what is imported.

    >>> with NeedsExtra("paper"):
    ...     import botorch_that_is_not_here
    Traceback (most recent call last):
    ImportError: botorch_that_is_not_here is not installed: pip install 'ray_autolrs[paper]'
    """

    def __init__(self, extra: str) -> None:
        self._extra = extra

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, ModuleNotFoundError) or error.name is None:
            return
        package = error.name.partition(".")[0]
        if package != __package__:
            remedy = f"pip install 'ray_autolrs[{self._extra}]'"
            raise ImportError(f"{package} is not installed: {remedy}", name=package) from error

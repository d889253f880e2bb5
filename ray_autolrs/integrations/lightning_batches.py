"""The training batches of a ``lightning.Trainer``: read for a search, and handed back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch.loops.fetchers import _DataFetcher


class Read:
    """The batches that a trainer is about to train on, epoch after epoch.

    Args:
        fetcher: the trainer's own, at the start of its first epoch.

    Attributes:
        fetcher: the same.
        items: what was read of that epoch: what the fetcher returned, and its ``fetched`` and
            ``done`` after it.
        is_whole: whether that epoch was read to its end.
    """

    def __init__(self, fetcher: Any) -> None:
        self.fetcher = fetcher
        self.items: list[tuple[Any, int, bool]] = []
        self.is_whole = False
        self._epochs = 0

    def __iter__(self) -> Iterator[Any]:
        self._epochs += 1
        is_first = self._epochs == 1
        if not is_first:
            iter(self.fetcher)
        while not self.fetcher.done:
            try:
                item = next(self.fetcher)
            except StopIteration:
                break
            if is_first:
                self.items.append((item, self.fetcher.fetched, self.fetcher.done))
            yield item[0]
        if is_first:
            self.is_whole = True


class HandedBack(_DataFetcher):
    """Gives the batches of the first epoch that were read, and then those that follow.

    Args:
        read: what was.
    """

    def __init__(self, read: Read) -> None:
        super().__init__()
        self._inner: _DataFetcher = read.fetcher
        self._items = read.items
        self._is_over = read.is_whole
        self._combined_loader = self._inner._combined_loader
        self.length = self._inner.length

    def __iter__(self) -> HandedBack:
        self._items, self._is_over = [], False
        iter(self._inner)
        self._take_over()
        return self

    def __next__(self) -> Any:
        if self._items:
            item, self.fetched, self.done = self._items.pop(0)
            return item
        if self._is_over:
            self.done = True
            raise StopIteration
        try:
            return next(self._inner)
        finally:
            self._take_over()

    def _take_over(self) -> None:
        self.fetched, self.done = self._inner.fetched, self._inner.done

    def reset(self) -> None:
        self._items = []
        self._inner.reset()
        self._take_over()

    def teardown(self) -> None:
        self._items = []
        self._inner.teardown()

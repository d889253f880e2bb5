"""Imports layers of a package from the lowest up, while those above and some packages are blocked.

Run as a module, in an interpreter of its own: it reads its plan from standard input as JSON, and
writes the imports that failed.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.abc import MetaPathFinder


class Blocker(MetaPathFinder):
    """Refuses some modules, and all that lies in them."""

    blocked: tuple[str, ...] = ()

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in self.blocked):
            raise ImportError(f"{fullname} is above")


def failures(layers: Sequence[Iterable[str]], absent: Mapping[str, int]) -> dict[str, str]:
    """Import each layer's modules; those of the layers above are there for nobody yet.

    Args:
        layers: names of modules, from the lowest layer up.
        absent: packages that are not installed below a layer, and the place of that layer.

    Returns:
        Why an import failed, by the module that was to be imported.
    """
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: not there
    blocker = Blocker()
    sys.meta_path.insert(0, blocker)
    failed = {}
    for place, layer in enumerate(layers):
        blocker.blocked = tuple(name for above in layers[place + 1 :] for name in above)
        for package in [name for name, first in absent.items() if first == place]:
            del sys.modules[package]
        for module in layer:
            try:
                importlib.import_module(module)
            except Exception as error:
                failed[module] = f"{type(error).__name__}: {error}"
    return failed


if __name__ == "__main__":
    json.dump(failures(**json.load(sys.stdin)), sys.stdout)

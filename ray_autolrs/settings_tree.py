"""Settings as a tree of frozen dataclasses: stored as JSON, compared, and addressed by path.

A path names fields from the root, joined by dots: ``search.probe_steps``. Stored settings are plain
data. Nothing is built from them: they are compared with settings that a user gives, and lend
numbers to those that are open, so that a file cannot run code and one's own parts need no registry.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

FORMAT = "ray_autolrs.config/2"
"""What stored settings say about themselves. The number rises when an old reader would fail."""

Tree = TypeVar("Tree")

Setting = tuple[str, Any]
"""A path and the value to put there."""

StoredSettings = dict[str, Any]
"""JSON values: ``format``, ``version`` of the package, and ``settings``, the tree."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that two trees do not share.

    Attributes:
        path: where it is.
        given: its value in the first, as JSON.
        stored: its value in the second.
    """

    path: str
    given: Any
    stored: Any


def to_stored(tree: Any) -> StoredSettings:
    """Return a tree as JSON values, each dataclass with its type."""
    try:
        package_version = version("ray_autolrs")
    except PackageNotFoundError:  # a source tree that was never installed
        package_version = "unknown"
    return {"format": FORMAT, "version": package_version, "settings": _as_json(tree)}


def from_stored(stored: Any) -> StoredSettings:
    """Check that JSON values are what :func:`to_stored` returned, and return them.

    Raises:
        ValueError: they are not, or of another format.
    """
    found = stored.get("format") if isinstance(stored, dict) else type(stored).__name__
    if found != FORMAT or not isinstance(stored.get("settings"), dict):
        raise ValueError(
            f"the stored settings have format {found!r}, and this version of ray_autolrs reads "
            f"{FORMAT!r}; use another name for a new run, or the version that wrote them"
        )
    assert isinstance(stored, dict)
    return stored


def filled_from(resolved: Tree, given: Any, stored: StoredSettings) -> Tree:
    """Return a resolved tree whose derived numbers are those that were stored.

    A number counts as derived where it is None in the tree as given, and not in the resolved one.
    """
    filled: Tree = _filled(resolved, given, stored["settings"])
    return filled


def differences(given: StoredSettings, stored: StoredSettings) -> list[Difference]:
    """Return the settings that differ, in the order of the fields."""
    ours, theirs = dict(leaves(given["settings"])), dict(leaves(stored["settings"]))
    paths = [*ours, *(path for path in theirs if path not in ours)]
    return [
        Difference(path, ours.get(path), theirs.get(path))
        for path in paths
        if ours.get(path) != theirs.get(path)
    ]


def replaced(tree: Tree, *settings: Setting) -> Tree:
    """Return a tree with values put in by path; lists become tuples.

    All settings of one part are put in at once, so that a part is never checked half-way.

    Raises:
        ValueError: there is no such path, or a part refuses a value.
    """
    here: dict[str, Any] = {}
    below: dict[str, list[Setting]] = {}
    for path, value in settings:
        name, dot, rest = path.partition(".")
        names = [field.name for field in dataclasses.fields(tree)]  # type: ignore[arg-type]
        if name not in names:
            raise ValueError(
                f"{type(tree).__name__} has no setting {name!r}; it has {', '.join(names)}"
            )
        if dot:
            below.setdefault(name, []).append((rest, value))
        else:
            here[name] = tuple(value) if isinstance(value, list) else value
    for name, parts in below.items():
        part = here.get(name, getattr(tree, name))
        if not dataclasses.is_dataclass(part):
            raise ValueError(
                f"{type(tree).__name__}.{name}={part!r} has no setting {parts[0][0]!r}: it is not "
                "made of parts"
            )
        here[name] = replaced(part, *parts)
    return dataclasses.replace(tree, **here)  # type: ignore[type-var]


def parse_setting(text: str) -> Setting:
    """Return the setting that ``PATH=VALUE`` names: a JSON value or, if it is none, a string.

    >>> parse_setting("search.probe_steps=50"), parse_setting("lanes.kind=workers")
    (('search.probe_steps', 50), ('lanes.kind', 'workers'))

    Raises:
        ValueError: it has another form.
    """
    path, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text} must be PATH=VALUE, such as search.probe_steps=50")
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        is_ours = kind.__module__.split(".")[0] == __package__
        name = kind.__name__ if is_ours else f"{kind.__module__}:{kind.__qualname__}"
        fields = dataclasses.fields(value)
        return {"type": name} | {
            field.name: _as_json(getattr(value, field.name)) for field in fields
        }
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        # One's own part that is no dataclass: told apart by its type alone.
        return {"type": f"{type(value).__module__}:{type(value).__qualname__}"}
    return value


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of a stored tree with its path; that of a part's type ends in ``type``."""
    if not isinstance(value, dict):
        yield path, value
        return
    for name, item in value.items():
        yield from leaves(item, f"{path}.{name}" if path else name)


def _filled(resolved: Any, given: Any, stored: Any) -> Any:
    if given is None and not dataclasses.is_dataclass(resolved):
        return resolved if resolved is None or isinstance(stored, dict | None) else _plain(stored)
    if not (dataclasses.is_dataclass(resolved) and dataclasses.is_dataclass(given)):
        return resolved
    if not isinstance(stored, dict) or isinstance(resolved, type):
        return resolved
    changes = {
        field.name: _filled(
            getattr(resolved, field.name), getattr(given, field.name), stored.get(field.name)
        )
        for field in dataclasses.fields(resolved)
        if hasattr(given, field.name)
    }
    return dataclasses.replace(resolved, **changes)


def _plain(stored: Any) -> Any:
    return tuple(stored) if isinstance(stored, list) else stored

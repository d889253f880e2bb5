"""Values that a command names by their place in Python: tasks, and parts of the settings."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_autolrs.task import TrainingTask


def load(name: str) -> Any:
    """Return what ``package.module:NAME`` names; a module may lie in the current folder.

    Raises:
        ValueError: the name has another form, or there is no such module or value in it.
    """
    module_name, colon, value_name = name.partition(":")
    if not (module_name and colon and value_name):
        raise ValueError(f"{name!r} must be MODULE:NAME, for example quickstart:Digits")
    # As with `python -m`: a person's own module lies where they stand. Ray gives its workers the
    # driver's path.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # it is there, and lacks a package
        raise ValueError(
            f"{name!r}: there is no module {error.name!r} in the current folder or among the "
            "installed packages"
        ) from error
    try:
        return getattr(module, value_name)
    except AttributeError as error:
        raise ValueError(f"{name!r}: {module_name} has no {value_name!r}") from error


def load_task(name: str) -> TrainingTask:
    """Return the task that ``module:NAME`` names: an instance, or a class built without arguments.

    Raises:
        ValueError: it names no task, or its class cannot be built so.
    """
    from ray_autolrs.task import TrainingTask

    found = load(name)
    if isinstance(found, TrainingTask):
        return found
    if not (isinstance(found, type) and issubclass(found, TrainingTask)):
        raise ValueError(f"{name!r} is not a TrainingTask, but {found!r}")
    try:
        return found()
    except TypeError as error:
        raise ValueError(
            f"{name!r} cannot be built without arguments ({error}); name an instance instead"
        ) from error


def load_part(value: Any) -> Any:
    """Return the part of the settings that a string names, with its own defaults.

    Args:
        value: the name of a class of ``ray_autolrs``, such as ``"WSD"``, or ``"module:NAME"`` of
            one's own; anything else is returned as it is.

    Raises:
        ValueError: there is no such class, or it needs arguments.
    """
    if not isinstance(value, str):
        return value
    if value in importlib.import_module("ray_autolrs").__all__:
        value = f"ray_autolrs:{value}"
    if ":" not in value:
        return value
    found = load(value)
    try:
        return found() if isinstance(found, type) else found
    except TypeError as error:
        raise ValueError(f"{value!r} cannot be built without arguments: {error}") from error

"""Writes docs/settings.md from the settings' own definitions and docstrings.

python docs/settings_page.py
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path

from ray_autolrs import (
    EMA,
    WSD,
    AutoLRSConfig,
    BoundedExponential,
    Bracket,
    Checkpoints,
    Constant,
    Cosine,
    Exponential,
    GaussianProcess,
    Lanes,
    Linear,
    Looks,
    Research,
    ScheduleFreeAverage,
    Stages,
    TrainingTask,
    Validation,
    Warmup,
)

PAGE = Path(__file__).parent / "settings.md"

PARTS: tuple[tuple[str, type, str], ...] = (
    ("The run", AutoLRSConfig, ""),
    ("The search: the default's", Bracket, "search"),
    ("Re-search", Research, "search.research"),
    ("Re-search, stage by stage", Looks, "search.research"),
    ("The search: the paper's", GaussianProcess, "search"),
    ("A forecaster: the paper's", Exponential, "search.forecaster"),
    ("A forecaster that cannot become a line", BoundedExponential, "search.forecaster"),
    ("The average: Schedule-Free", ScheduleFreeAverage, "averaging"),
    ("The average: exponential", EMA, "averaging"),
    ("Stages", Stages, "stages"),
    ("Warm-up", Warmup, "warmup"),
    ("A shape: constant", Constant, "shape"),
    ("A shape: warm-up, stable, decay", WSD, "shape"),
    ("A shape: linear", Linear, "shape"),
    ("A shape: half a cosine", Cosine, "shape"),
    ("Validation", Validation, "validation"),
    ("Lanes", Lanes, "lanes"),
    ("Checkpoints", Checkpoints, "checkpoints"),
)
"""Title, dataclass, and the path that it is set at."""

HEAD = """# Settings

`python docs/settings_page.py` writes this page from the definitions; a test compares the two. A
setting's name is its path in the config: what `ray-autolrs train` takes as
`--search.probe-steps 50`, its `--set` as `search.probe_steps=50`, and Python as
`AutoLRSConfig(search=Bracket(probe_steps=50), ...)`. A None is filled in before a run starts, from
other numbers: see [the end of the page](#what-the-nones-become).
"""

EXAMPLE_STEPS, EXAMPLE_BATCH = 2300, 32


def page() -> str:
    sections = [HEAD]
    sections += [_section(title, kind, path) for title, kind, path in PARTS]
    sections += [_task_section(), _resolved_section()]
    return "\n".join(sections)


def documented(kind: type) -> dict[str, str]:
    """Return what is said of each attribute of a class: under it, or in its Attributes section."""
    bases = [base for base in kind.__bases__ if base.__module__.startswith("ray_autolrs.")]
    said = {name: words for base in bases for name, words in documented(base).items()}
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    said |= _attributes_section(inspect.getdoc(kind) or "")
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match text:
                case ast.Expr(value=ast.Constant(value=str(words))):
                    said[field.target.id] = words
    return {name: _markdown(words) for name, words in said.items()}


def _section(title: str, kind: type, path: str) -> str:
    said = documented(kind)
    lines = [f"## {title}", "", f"`{kind.__name__}`: {_first_paragraph(kind)}", ""]
    fields = dataclasses.fields(kind)
    if not fields:
        return "\n".join([*lines, "It has no settings.", ""])
    for field in fields:
        name = f"{path}.{field.name}" if path else field.name
        lines += [f"**`{name}`**{_default(field)}", "", f"{said[field.name]}", ""]
    return "\n".join(lines)


def _task_section() -> str:
    lines = ["## The task", "", "Attributes of a `TrainingTask`, set in its class.", ""]
    for name, words in documented(TrainingTask).items():
        has_default = hasattr(TrainingTask, name)
        default = f" = `{getattr(TrainingTask, name)!r}`" if has_default else ", required"
        lines += [f"**`{name}`**{default}", "", words, ""]
    return "\n".join(lines)


def _resolved_section() -> str:
    config = AutoLRSConfig(total_steps=EXAMPLE_STEPS, lr=(1e-3, 1.0))
    resolved = config.resolve(global_batch_size=EXAMPLE_BATCH)
    lines = [
        "## What the Nones become",
        "",
        f"With `AutoLRSConfig(total_steps={EXAMPLE_STEPS}, lr=(1e-3, 1.0))` and batches of "
        f"{EXAMPLE_BATCH} samples,",
        f"`resolve(global_batch_size={EXAMPLE_BATCH})` gives:",
        "",
        "| setting | value |",
        "| --- | --- |",
    ]
    for part in dataclasses.fields(config):
        given, filled = getattr(config, part.name), getattr(resolved, part.name)
        if not dataclasses.is_dataclass(given):
            continue
        for field in dataclasses.fields(given):
            before, after = getattr(given, field.name), getattr(filled, field.name)
            if before != after:
                lines.append(f"| `{part.name}.{field.name}` | {after:.6g} |")
    return "\n".join([*lines, ""])


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is dataclasses.MISSING:
        return ", required"
    value = field.default
    shown = f"{type(value).__name__}()" if dataclasses.is_dataclass(value) else repr(value)
    if isinstance(value, Exponential) and value != Exponential():
        shown = repr(value)
    return f" = `{shown}`"


def _first_paragraph(kind: type) -> str:
    return _markdown((inspect.getdoc(kind) or "").split("\n\n")[0])


def _attributes_section(docstring: str) -> dict[str, str]:
    found = re.search(r"^Attributes:\n((?: {4}.*\n?|\n)+)", docstring, re.MULTILINE)
    if found is None:
        return {}
    entries = re.findall(r"^ {4}(\w+): ((?:.*\n?)(?: {8}.*\n?)*)", found[1], re.MULTILINE)
    return dict(entries)


def _markdown(text: str) -> str:
    """Turn a docstring's marks into Markdown's, and its lines into one."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", " ".join(text.split()))
    return (text[:1].upper() + text[1:]).replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

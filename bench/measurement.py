"""What every benchmark does: read its options, and write what it measured, where and with what."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ray_autolrs.comparison.table import markdown

RESULTS_FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "ray", "botorch", "numpy", "scipy")

Row = dict[str, Any]


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a benchmark's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def write_results(name: str, settings: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """Print rows as they come, then as a table, and write them to ``results/<name>.json``.

    The file is written after each row: a benchmark that is stopped leaves what it has measured.
    """
    done: list[Row] = []
    result = {
        "command": " ".join(["python", "-m", f"bench.{name}", *sys.argv[1:]]),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": versions(),
        "cpus": os.cpu_count(),
        "settings": settings,
        "rows": done,
    }
    for row in rows:
        done.append(row)
        print(row, flush=True)
        text = json.dumps(result, indent=2)
        (RESULTS_FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(markdown(done))


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that count; None where one is missing."""
    found: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit() -> str:
    """Return the commit of the tree, marked if the tree differs from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return described.stdout.strip()

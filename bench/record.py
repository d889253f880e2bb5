"""What every benchmark writes beside its figures: where, with what and how they were measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "ray", "botorch", "numpy", "scipy")


def record(name: str, settings: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Write ``bench/results/<name>.json``, and return the rows as a Markdown table."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    result = {
        "command": " ".join(["python", f"bench/{name}.py", *sys.argv[1:]]),
        "commit": commit,
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "cpus": os.cpu_count(),
        "settings": settings,
        "rows": rows,
    }
    path = ROOT / "bench" / "results" / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return table(rows)


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table, numbers to three digits."""
    columns = list(rows[0])
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_cell(row[column]) for column in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

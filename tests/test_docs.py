"""The code in docs/, page by page: a page's blocks build on each other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def code_of(page: Path) -> str:
    return "\n\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if code_of(page)], ids=lambda page: page.stem
)
def test_the_code_of_a_page_runs(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text(code_of(page))
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "nan" not in ran.stdout.lower().replace("NaN", "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_paths_exist(page):
    text = page.read_text()
    for name in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / name).exists(), name
    for name in re.findall(r"`((?:ray_autolrs|bench|jobs|tests)/[\w./]*)`", text):
        assert (ROOT / name).exists(), name

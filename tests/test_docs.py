"""docs/: the code page by page, whose blocks build on each other; the links; the site."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import ray_autolrs
from docs.settings_page import PARTS, page
from jobs.quickstart import parse
from ray_autolrs import AutoLRSResult, LRSchedule

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def code_of(page: Path, language: str = "python") -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    return "\n\n".join(blocks)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if code_of(page)], ids=lambda page: page.stem
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    """In this process: Ray and torch are loaded once for all pages."""
    script = tmp_path / "page.py"
    script.write_text(code_of(page))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a reader's own script
        runpy.run_path(str(script), run_name="__main__")
    assert "nan" not in capsys.readouterr().out.lower()


def test_pages_with_commands_are_known():
    """Other files run those of the command's page and of the cluster's."""
    found = {page.stem for page in PAGES if code_of(page, "sh")}
    assert found == {"cluster", "command_line", "getting_started", "lanes"}
    told = code_of(ROOT / "docs" / "getting_started.md", "sh").split("\n")
    assert {line for line in told if line} <= set(code_of(ROOT / "README.md", "sh").split("\n"))
    name, job, *words = shlex.split(code_of(ROOT / "docs" / "lanes.md", "sh"))
    assert (name, job) == ("python", "jobs/quickstart.py")
    assert parse(words).probe_actors == 10


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.stem)
def test_links_and_paths_exist(page):
    text = page.read_text()
    for name in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / name).exists(), name
    for name in re.findall(r"`((?:ray_autolrs|bench|jobs|tests|docs|kubernetes)/[\w./]*)`", text):
        assert (ROOT / name).exists(), name
    assert not re.search(r"(?<!`)/(root|work|tmp)/", text)


def test_file_tree_is_there():
    (tree,) = re.findall(r"```\n(jobs/.*?)```", (ROOT / "docs/layout.md").read_text(), re.DOTALL)
    folders: list[str] = []
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        assert (ROOT / "".join(folders)).exists(), line


def test_settings_page_is_that_of_the_definitions():
    written = (ROOT / "docs" / "settings.md").read_text()
    assert written == page(), "python docs/settings_page.py"
    public = (getattr(ray_autolrs, name) for name in ray_autolrs.__all__)
    settings = {value for value in public if dataclasses.is_dataclass(value)}
    told = {kind for _, kind, _ in PARTS}
    assert told == settings - {AutoLRSResult, LRSchedule}


def test_words_are_introduced():
    """Each of these is explained on the first page, in bold."""
    words = re.findall(r"^\*\*([\w ]+)\.\*\*", (ROOT / "docs/index.md").read_text(), re.MULTILINE)
    assert {"Applied step", "Stage", "Snapshot", "Probe", "Lane"} <= set(words)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built as ``make docs`` does: a warning is an error."""
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material, of the extra docs, is not installed")
    folder = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return folder


def test_site_has_every_page_and_shows_its_code(site):
    built = {path.parent.name for path in site.glob("*/index.html")} & {p.stem for p in PAGES}
    assert built == {page.stem for page in PAGES} - {"index"}
    for path in site.rglob("*.html"):
        text = path.read_text()
        assert "```" not in text, f"{path}: a block of code was not understood"
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):
            lost = re.search(r"^\s*(- |\d+\. |\| ).*", paragraph, re.MULTILINE)
            assert lost is None, f"{path}: no list or table begins here: {lost}"
    assert not list(site.rglob("*.py"))


def test_site_loads_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"?(http[^\">\s]*)", path.read_text()
        )
        assert not loaded, path


def test_version_is_that_of_the_changelog():
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    latest = re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert latest == version
    assert importlib.metadata.version("ray_autolrs") == version

r"""Aligned sentences from LibreOffice's help, which Debian packages in many languages.

    apt-get download libreoffice-help-en-us libreoffice-help-de
    for package in libreoffice-help-*.deb; do dpkg-deb -x $package help; done
    python -m ray_autolrs.workloads.translation.libreoffice_help \
        help/usr/share/libreoffice/help en-US de data

writes ``data/train.en``, ``data/train.de`` and likewise ``val`` and ``test``. Paragraphs are
aligned by page and by their id, and the three parts are cut by page, so that no page is in two
of them. The text is under the MPL-2.0.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

MIN_WORDS = 4
"""Fewest words of a paragraph, on both sides: shorter ones are names of menus."""

HELD_OUT = {"val": 3, "test": 3}
"""Of 100 pages, those that go to each of these parts. Ours."""

_VOID = {"img", "br", "input", "link", "meta", "hr", "wbr", "col", "area", "base", "source"}


def aligned_paragraphs(folder: Path, source: str, target: str) -> Iterator[tuple[str, str, str]]:
    """Yield (page, source paragraph, target paragraph), each pair once.

    Args:
        folder: holds a folder of pages for each language.
        source: name of the source language's folder, say ``en-US``.
        target: name of the target language's.

    Raises:
        ValueError: a folder is missing, or no page is in both.
    """
    for language in (source, target):
        if not (folder / language / "text").is_dir():
            raise ValueError(
                f"{folder / language / 'text'} is missing: expected the pages of Debian's package "
                f"libreoffice-help-{language.lower()}, unpacked"
            )
    seen: set[tuple[str, str]] = set()
    for path in sorted((folder / source / "text").rglob("*.html")):
        page = path.relative_to(folder / source).as_posix()
        other = folder / target / page
        if not other.is_file():
            continue
        theirs = _paragraphs(other)
        for name, text in _paragraphs(path).items():
            translated = theirs.get(name, "")
            pair = (text, translated)
            is_translated = text != translated
            words = min(len(text.split()), len(translated.split()))
            if is_translated and words >= MIN_WORDS and pair not in seen:
                seen.add(pair)
                yield page, text, translated
    if not seen:
        raise ValueError(f"{folder} gives no paragraph in both {source} and {target}")


def write_parts(folder: Path, source: str, target: str, output: Path) -> dict[str, int]:
    """Write the aligned files of the three parts, and return each part's number of lines.

    Raises:
        ValueError: as :func:`aligned_paragraphs`.
    """
    parts: dict[str, list[tuple[str, str]]] = {"train": [], **{name: [] for name in HELD_OUT}}
    for page, text, translated in aligned_paragraphs(folder, source, target):
        parts[_part_of(page)].append((text, translated))
    output.mkdir(parents=True, exist_ok=True)
    for name, pairs in parts.items():
        for side, language in enumerate((source, target)):
            lines = "".join(f"{pair[side]}\n" for pair in pairs)
            suffix = language.split("-")[0].lower()
            (output / f"{name}.{suffix}").write_text(lines, encoding="utf-8")
    return {name: len(pairs) for name, pairs in parts.items()}


def _part_of(page: str) -> str:
    """Return a page's part; it depends on the page's name alone."""
    place = int.from_bytes(hashlib.sha256(page.encode()).digest()[:4], "big") % 100
    for name, size in HELD_OUT.items():
        if place < size:
            return name
        place -= size
    return "train"


def _paragraphs(path: Path) -> dict[str, str]:
    parser = _Paragraphs()
    parser.feed(path.read_text(encoding="utf-8", errors="strict"))
    return parser.found


class _Paragraphs(HTMLParser):
    """Collects the text of each element with an id that stands for a paragraph or a heading."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._name = ""
        self._depth = 0
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            return
        if self._depth:
            self._depth += 1
            return
        name = dict(attrs).get("id") or ""
        if tag in {"p", "h1", "h2", "h3", "h4", "h5", "h6"} and name:
            self._name, self._depth, self._text = name, 1, []

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID or not self._depth:
            return
        self._depth -= 1
        if self._depth == 0:
            self.found.setdefault(self._name, " ".join("".join(self._text).split()))

    def handle_data(self, data: str) -> None:
        if self._depth:
            self._text.append(data)


def main(argv: Sequence[str]) -> str:
    """Run the command in the module's description, and return what to say."""
    if len(argv) != 4:
        return "usage: libreoffice_help HELP_FOLDER SOURCE TARGET OUTPUT, for example en-US de data"
    counts = write_parts(Path(argv[0]), argv[1], argv[2], Path(argv[3]))
    return ", ".join(f"{name}: {count} pairs" for name, count in counts.items())


if __name__ == "__main__":
    sys.stdout.write(f"{main(sys.argv[1:])}\n")

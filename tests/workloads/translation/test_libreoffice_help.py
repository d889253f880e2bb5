from __future__ import annotations

import pytest

from ray_autolrs.workloads.translation.libreoffice_help import main, write_parts

PAGE = """<html><body><div id="Contents"><h2 id="hd_1">{heading}</h2>
<p id="par_1" class="x">{first}</p><div><p id="par_2"><img src="a.svg"> {second}</p></div>
<p>without an id this is left out</p><p id="par_3">Too short</p></div></body></html>"""


def write_pages(folder, pages=200):
    for language, words in (("en-US", "The page has number"), ("de", "Die Seite hat Nummer")):
        for number in range(pages):
            path = folder / language / "text" / "shared" / f"{number}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = {
                "heading": f"{words} {number}",
                "first": f'{words} <a href="x">{number} &amp;\n more</a>',
                "second": "This is the same in both languages",
            }
            path.write_text(PAGE.format(**values), encoding="utf-8")


def test_paragraphs_are_aligned_by_their_ids_and_cut_by_page(tmp_path):
    write_pages(tmp_path)
    counts = write_parts(tmp_path, "en-US", "de", tmp_path / "out")
    assert sum(counts.values()) == 400
    assert counts["train"] > 300
    assert counts["val"] > 0
    assert counts["test"] > 0
    pages = {}
    for part, count in counts.items():
        english = (tmp_path / "out" / f"{part}.en").read_text().splitlines()
        german = (tmp_path / "out" / f"{part}.de").read_text().splitlines()
        assert len(english) == len(german) == count
        for one, two in zip(english, german, strict=True):
            assert one.replace("The page has number", "Die Seite hat Nummer") == two
        pages[part] = {line.split()[4] for line in english}
        assert any(line.endswith("& more") for line in english)
    assert not pages["train"] & pages["test"]
    assert not pages["train"] & pages["val"]


def test_missing_pages_are_named(tmp_path):
    (tmp_path / "en-US" / "text").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"/de/text is missing: expected .* libreoffice-help-de,"):
        write_parts(tmp_path, "en-US", "de", tmp_path / "out")


def test_command_says_what_it_wrote(tmp_path):
    write_pages(tmp_path, pages=60)
    assert main([str(tmp_path), "en-US", "de", str(tmp_path / "out")]).startswith("train: ")
    assert main([]).startswith("usage:")

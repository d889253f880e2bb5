"""A report's page, read back: its parts as text, and marks by their classes."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """The elements of a page, in order: tag, attributes, and all text inside."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
        assert self._open == [], "each element is closed"

    def handle_starttag(self, tag, attrs):
        text: list[str] = []
        self.elements.append((tag, dict(attrs), text))
        if tag not in VOID:
            self._open.append((tag, text))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        opened, _ = self._open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data):
        for _, text in self._open:
            text.append(data)

    def texts(self, tag: str, kind: str = "") -> list[str]:
        """Return the text of each element of a tag, with a CSS class if one is given."""
        return [
            re.sub(r"\s+", " ", "".join(text)).strip()
            for name, attributes, text in self.elements
            if name == tag and set(kind.split()) <= set((attributes.get("class") or "").split())
        ]

    def attributes(self, name: str) -> list[str]:
        """Return each value of an attribute."""
        return [attrs[name] or "" for _, attrs, _ in self.elements if name in attrs]

    def figures(self) -> dict[str, str]:
        """Return the figures below the headline by name."""
        names = self.texts("dt")
        values = [
            "".join(text).strip()
            for tag, attributes, text in self.elements
            if tag == "dd" and attributes.get("class") is None
        ]
        return dict(zip(names, values, strict=True))

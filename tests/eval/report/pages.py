"""A page as a browser's parser sees it, for the tests of pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "wbr", "img", "br", "link", "hr", "input", "path", "use", "rect", "image"}


class Page(HTMLParser):
    """Collects every tag with its attributes, the text, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.code: dict[str, str] = {"style": "", "script": ""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.code:
            self.code[self.open[-1]] += data
        else:
            self.text += data

    def named(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return re.sub(r"\s+", " ", self.text)


def section_text(html: str, name: str) -> str:
    """One section of a page."""
    found = re.search(rf'<section id="{name}".*?</section>', html, flags=re.DOTALL)
    assert found, name
    return found[0]


def section(html: str, name: str) -> Page:
    """One section of a page, parsed."""
    return Page(section_text(html, name))


def foreign(page: Page) -> list[tuple[str, str, str]]:
    """What refers to anything outside of the page."""
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    found = []
    for tag, attributes in page.tags:
        if tag in {"link", "iframe", "object", "base", "form"}:
            found.append((tag, "", ""))
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"} and not (
                value.startswith(("data:image/", "data:text/csv;")) or (value[:1] == "#" and value[1:] in ids)
            ):
                found.append((tag, name, value[:60]))
            found += [(tag, name, t) for t in re.findall(r"url\(([^)]*)\)", value or "") if t.lstrip("#") not in ids]
            if name.startswith("on"):
                found.append((tag, name, value))
    for code in page.code.values():
        found += [("code", "", word) for word in ("@import", "url(", "http:", "https:", "fetch(") if word in code]
    return found


def tables(html: str) -> dict[str, list[list[str]]]:
    """caption -> rows of texts, the headings first."""
    found = {}
    for table in re.findall(r"<table.*?</table>", html, flags=re.DOTALL):
        rows = re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL) for row in rows]
        caption = re.search(r"<caption[^>]*>(.*?)</caption>", table, flags=re.DOTALL)
        assert caption
        found[Page(caption[1]).words] = [[Page(cell).words for cell in row] for row in cells]
    return found

"""Check the built site and the README without a network: `python scripts/docs/check_site.py build/site`.

mkdocs itself checks the links and anchors between pages. This script checks what it leaves out: no page
may load a script, a style sheet, a font, a frame or a picture from another host; links to other hosts have
to be well formed and use https; the README's relative links have to lead to files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
_LOADING = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
_NOT_LOADED = {"canonical", "next", "prev", "alternate", "author", "license"}
"""Values of `rel` with which <link> names another page and loads nothing."""
_IN_STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)
_ELSEWHERE = re.compile(r"^\s*(?:https?:)?//", re.IGNORECASE)


class _Page(HTMLParser):
    """Collects the addresses that a page loads from, and those that it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the element loads."""
        values = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.linked.append(values.get("href", ""))
        elif tag == "link" and not _NOT_LOADED & set(values.get("rel", "").split()):
            self.loaded.append(values.get("href", ""))
        for name in _LOADING.get(tag, ()):
            self.loaded.append(values.get(name, ""))
        self.loaded += _IN_STYLES.findall(values.get("style", ""))


def complaints(site: Path) -> Iterator[str]:
    """One line for each fault of the site and of the README."""
    pages = sorted(site.rglob("*.html"))
    if not pages:
        yield f"{site}: holds no page"
    for path in pages:
        text = path.read_text(encoding="utf-8")
        page = _Page()
        page.feed(text)
        if 'class="arithmatex"' in text:
            yield f"{path}: holds a formula that is not MathML"
        for address in page.loaded:
            if _ELSEWHERE.match(address):
                yield f"{path}: loads {address}"
        for address in page.linked:
            if _ELSEWHERE.match(address) and not is_well_formed(address):
                yield f"{path}: links to {address}, which is no well-formed https address"
    for path in sorted([*site.rglob("*.css"), *site.rglob("*.svg"), *pages]):
        for address in _IN_STYLES.findall(path.read_text(encoding="utf-8")):
            yield f"{path}: loads {address}"
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        yield from broken_links(ROOT / name)


def is_well_formed(address: str) -> bool:
    """True of an https address with a host name that has a dot, and no white space."""
    parts = urlsplit(address)
    return parts.scheme == "https" and "." in parts.netloc and not re.search(r"\s", address)


def broken_links(page: Path) -> Iterator[str]:
    """One line for each link of a Markdown file that leads to no file, or is malformed."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        for inner in token.children or ():
            address = str(inner.attrs.get("href") or inner.attrs.get("src") or "")
            if not address or address.startswith("#"):
                continue
            if urlsplit(address).scheme:
                if not is_well_formed(address):
                    yield f"{page}: {address} is no well-formed https address"
            elif not (page.parent / address.partition("#")[0]).exists():
                yield f"{page}: {address} leads to no file"


def main() -> int:
    """Print the complaints; returns the exit status."""
    found = list(dict.fromkeys(complaints(Path(sys.argv[1]))))
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

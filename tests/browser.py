"""A page as Chromium sees it: what became of its elements, and what Chromium complained of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

#: For a machine that is busy with labs.
PATIENCE = 180


class Page(HTMLParser):
    """What a browser made of a page: its elements in order, with attributes and all the text in them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[int] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, {key: value or "" for key, value in attributes}, []))
        if name not in ("meta", "input", "br", "link"):
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, name: str) -> None:
        while self.open and self.elements[self.open.pop()][0] != name:
            pass

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.elements[place][2].append(data)

    def all(self, name: str, class_: str = "") -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, "".join(words))
            for found, attributes, words in self.elements
            if found == name and (not class_ or class_ in attributes.get("class", "").split())
        ]

    def text(self, name: str, class_: str = "") -> list[str]:
        return [words for _, words in self.all(name, class_)]


def browse(path: Path, address: str = "") -> tuple[Page, list[str]]:
    """The page as Chromium sees it after its script ran, and what Chromium complained of."""
    chromium = shutil.which("chromium")
    assert chromium, "no chromium: ci/setup installs it"
    ended = subprocess.run(
        [
            chromium,
            "--headless=new",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={path.parent / 'profile'}",
            "--dump-dom",
            f"file://{path}{address}",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return Page(ended.stdout), re.findall(r"CONSOLE.*", ended.stderr)

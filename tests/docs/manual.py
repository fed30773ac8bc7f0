"""The manual as a list of commands: what its pages tell a reader to type."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^ *```", re.M | re.S)

VARIABLE = re.compile(r"[A-Z_]+=")
"""Of the environment, set for one command."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, first line, language and text."""

    page: str
    line: int
    language: str
    text: str

    def commands(self):
        """(words, text) of every command of a ``sh`` block, comments and continuations resolved."""
        for text in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(text, comments=True)
            while words and VARIABLE.match(words[0]):
                words = words[1:]
            if words:
                yield words, " ".join(words)


def pages():
    """README and every page of the manual, as paths from the repository's root."""
    found = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    return [str(path.relative_to(REPOSITORY)) for path in found]


def blocks(page, *languages):
    """The fenced blocks of a page in the languages asked for."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        if found["language"] in languages:
            body = re.sub(rf"^{found['indent']}", "", found["body"], flags=re.M)
            yield Block(page, text.count("\n", 0, found.start()) + 1, found["language"], body)

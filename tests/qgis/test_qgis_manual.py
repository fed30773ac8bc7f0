"""The manual's table of messages, and its picture."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "how-to" / "qgis.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`.*?) \| .* \|$", PAGE, flags=re.MULTILINE)
MESSAGES = [message for row in ROWS for message in re.findall(r"`([^`]+)`", row)]

GIVEN = {r"\b[XY34]\b|120|red, green, blue|'default'": "…", "'wms'": "'…'"}
"""Values in the manual's examples, and what stands for them in the code."""


@pytest.fixture(scope="module")
def texts():
    """Everything that georsr and its plugin say, parts of strings joined, values as dots."""
    found = []
    for folder in ("georsr", "qgis", "cli"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            text = re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))
            found.append(re.sub(r"\{[^{}]*\}", "…", text))
    return "\n".join(found)


def test_manual_lists_messages():
    assert len(MESSAGES) > 15


@pytest.mark.parametrize("message", MESSAGES)
def test_manual_messages_occur_in_the_code(message, texts):
    for given, stands in GIVEN.items():
        message = re.sub(given, stands, message)
    parts = [part.strip(" ;,:") for part in message.split("…")]
    parts = [part for part in parts if len(part) > 8]
    assert parts
    for part in parts:
        assert part in texts, part


def test_manual_picture_is_small():
    picture = REPOSITORY / "docs" / "images" / "qgis-dialog.png"
    assert "(../images/qgis-dialog.png)" in PAGE
    assert picture.stat().st_size < 200_000

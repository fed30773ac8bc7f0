"""The page of messages has every message, class and family, and advice for each."""

import re
import runpy
import tomllib

from georsr import errors

from .manual import REPOSITORY

SCRIPT = runpy.run_path(str(REPOSITORY / "docs/make_messages_page.py"))
PAGE = (REPOSITORY / "docs/reference/troubleshooting.md").read_text(encoding="utf-8")


def test_troubleshooting_page_equals_that_of_its_script():
    assert SCRIPT["page"]() == PAGE, "run docs/make_messages_page.py"


def test_every_error_class_is_on_troubleshooting_page():
    kinds = (errors.GeorsrError, errors.GeorsrWarning)
    names = [n for n, k in vars(errors).items() if isinstance(k, type) and issubclass(k, kinds)]
    assert len(names) > 10
    assert [name for name in names if f"| `{name}` |" not in PAGE] == []


def test_every_family_of_messages_has_advice_and_messages():
    sections = PAGE.split("\n## ")[2:]
    assert len(sections) == len(SCRIPT["FAMILIES"])
    for section, family in zip(sections, SCRIPT["FAMILIES"], strict=True):
        title, _, text = section.partition("\n\n")
        assert title == family.title
        assert text.startswith(family.advice)
        assert text.count("\n- `") > 2, title


def test_remedies_belong_to_messages_that_exist():
    assert [text for text in SCRIPT["REMEDIES"] if f"- `{text}`: " not in PAGE] == []


def test_messages_of_one_module_are_found_by_their_texts(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        "def reason(path):\n"
        "    return f'{path}: is too small; enlarge it'\n"
        "def check(path, n):\n"
        "    if n:\n"
        "        raise InputError(reason(path))\n"
        "    message = 'first message' if n else 'second message'\n"
        "    warn_once(reader, message, BandWarning)\n"
        "    raise ValueError('not one of georsr')\n"
    )
    found = set(SCRIPT["messages"](module))
    assert found == {"…: is too small; enlarge it", "first message", "second message"}


def test_install_commands_of_messages_name_declared_packages_and_not_georsr():
    """georsr is on no index, and its extras would add torch to the light set."""
    files = [
        path for name in ("georsr", "cli", "qgis") for path in (REPOSITORY / name).rglob("*.py")
    ]
    text = PAGE + "".join(path.read_text(encoding="utf-8") for path in files)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.match(r"[\w-]+", line)[0] for group in groups for line in group}
    found = set(re.findall(r"pip install (?:--[\w-]+ )*'?([a-z][\w-]+)", text))
    assert {"pystac", "pyogrio", "spandrel", "onnx", "pillow", "scipy"} <= found
    assert found - declared - {"torchvision"} == set()

"""Messages name arguments of Python, and options on the command line."""

import ast
import inspect
import pickle
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke

import georsr
from georsr import errors
from georsr.config import OPTIONS
from georsr.errors import InputError, UsageError, options_in_messages, worded
from georsr.evaluation import preview, raster_comparison
from georsr.models.onnx.export import export_model
from georsr.training.train import train
from georsr.viewer.server import ViewServer

REPOSITORY = Path(__file__).resolve().parents[1]
TOWN = str(REPOSITORY / "sample_data/town_rgb_2m.tif")
OPTION = re.compile(r"(?<![\w-])--(?:no-)?([a-z][a-z0-9-]*[a-z0-9])")
DOCTOR = {"diagnostics.py", "install.py"}
"""Files whose texts only `georsr doctor` and `georsr qgis` print, and which name other programs."""


def literals():
    """Yield every text of georsr that is not a docstring, with X for what is filled in."""
    for path in sorted((REPOSITORY / "georsr").rglob("*.py")):
        if path.name in DOCTOR:
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        inner = {id(n.value) for n in nodes if isinstance(n, ast.Expr)}
        inner |= {id(v) for n in nodes if isinstance(n, ast.JoinedStr) for v in n.values}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "X" for v in node.values)
                yield path, "".join(parts)
            elif isinstance(getattr(node, "value", None), str) and id(node) not in inner:
                yield path, node.value


def arguments():
    """Return the names of arguments of Python that a message may mean."""
    functions = [
        georsr.super_resolve,
        raster_comparison.compare_with_source,
        preview.window_around,
        train,
        export_model,
        ViewServer,
    ]
    names = {name for function in functions for name in inspect.signature(function).parameters}
    security = {"tls_ca_file", "tls_client_cert", "tls_client_key"}
    whole_commands = {"show"}  # georsr train --show NAME, which no argument of Python replaces
    return names | set(OPTIONS) | security | whole_commands | {"super_resolve_many"}


def test_messages_of_library_name_arguments_that_exist():
    known, found = arguments(), 0
    for path, text in literals():
        without_commands = re.sub(r"`[^`]*`", "", text)
        for option in OPTION.findall(without_commands):
            found += 1
            name = errors.ARGUMENTS.get(option, option.replace("-", "_"))
            assert name in known, f"{path.name}: --{option} in {text!r}"
        assert not OPTION.search(re.sub(r"`[^`]*`", "", worded(text))), f"{path.name}: {text!r}"
    assert found > 80


def test_arguments_of_options_are_those_of_the_configuration():
    for name, option in OPTIONS.items():
        flag = option.flag or name.replace("_", "-")
        assert errors.ARGUMENTS.get(flag, flag.replace("-", "_")) == name


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("use a smaller --tile or --blocksize", "use a smaller tile_size or blocksize"),
        ("--nodata none keeps them", 'src_nodata="none" keeps them'),
        ("or use --nodata 0", "or use src_nodata=0"),
        ("or use --no-check-resources to try", "or use check_resources=False to try"),
        ("write it without --cog", "write it without cog=True"),
        ("use --bidx R,G,B", "use indexes=(R, G, B)"),
        ("--stretch LO,HI, or --model bicubic", 'stretch="LO,HI", or model="bicubic"'),
        ("--allow-driver VRT", 'allow_drivers=("VRT",)'),
        ("--scheduler tls://10.0.0.1:8786: silent", 'scheduler="tls://10.0.0.1:8786": silent'),
        ("use `rio convert --dtype uint8`", "use `rio convert --dtype uint8`"),
        ("rerun the same command", "rerun the same call"),
        ("a file called a--tile.tif", "a file called a--tile.tif"),
    ],
)
def test_worded_message_names_argument_in_python_and_option_on_command_line(message, expected):
    assert worded(message) == expected
    assert str(UsageError(message)) == expected
    with options_in_messages():
        assert str(UsageError(message)) == message
        assert str(pickle.loads(pickle.dumps(InputError(message)))) == message


def test_options_in_messages_error_inside_restores_arguments():
    with pytest.raises(ZeroDivisionError), options_in_messages():
        raise ZeroDivisionError
    assert not errors.speaks_of_options()


@pytest.mark.parametrize(
    ("options", "line", "argument", "option"),
    [
        ({"max_pixels": 10}, ["--max-pixels", "10"], "more than max_pixels=10", "--max-pixels 10"),
        ({"creation_options": {"TFW": "YES"}, "cog": True}, ["--co", "TFW=YES", "--cog"],
         "with cog=True or parts", "with --cog or --parts"),
        ({"resume": True}, ["--resume"], "omit resume=True to start over", "omit --resume"),
        ({"model": "segsr-lite-x2", "indexes": (1, 2)}, ["-m", "segsr-lite-x2", "-b", "1,2"],
         "choose with indexes", "choose with --bidx"),
        ({"allow_drivers": ("NONSENSE",)}, ["--allow-driver", "NONSENSE"],
         'allow_drivers=("NONSENSE",)', "--allow-driver NONSENSE"),
    ],
)  # fmt: skip
def test_error_of_run_names_what_its_caller_wrote(
    tmp_path, capsys, options, line, argument, option
):
    out = str(tmp_path / "out.tif")
    with pytest.raises(UsageError) as caught:
        georsr.super_resolve(TOWN, out, **options)
    assert argument in str(caught.value)
    assert "--" not in re.sub("`[^`]*`", "", str(caught.value))
    assert invoke(["sr", TOWN, out, *line]) == 2
    assert option in capsys.readouterr().err
    assert not errors.speaks_of_options()


def test_existing_output_names_overwrite_as_its_caller_wrote_it(tmp_path, capsys):
    shutil.copy(TOWN, tmp_path / "out.tif")
    with pytest.raises(UsageError, match="without overwrite=True"):
        georsr.super_resolve(TOWN, tmp_path / "out.tif", "bicubic-x2")
    assert invoke(["sr", TOWN, str(tmp_path / "out.tif")]) == 2
    assert "without --overwrite" in capsys.readouterr().err


def test_report_of_python_names_arguments_in_warnings(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = tmp_path / "five.tif"
        profile = {"driver": "GTiff", "width": 40, "height": 40, "count": 4, "dtype": "uint16"}
        with rasterio.open(source, "w", **profile) as target:
            target.write(np.random.default_rng(0).integers(1, 3000, (4, 40, 40)).astype("uint16"))
        report = georsr.super_resolve(source, tmp_path / "out.tif", "segsr-lite-x2")
    assert any("indexes=(R, G, B)" in text for text in report.warnings)
    shown = [str(w.message) for w in caught if issubclass(w.category, georsr.GeorsrWarning)]
    assert shown
    assert not any("--" in text for text in [*shown, *report.warnings])

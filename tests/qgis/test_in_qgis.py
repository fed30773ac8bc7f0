"""The plugin inside real QGIS; skipped, with the reason, where QGIS is not installed."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from georsr.cli.main import invoke

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = Path(__file__).parent / "data" / "super_resolve_and_stretch.model3"
TOWN = REPOSITORY / "sample_data" / "town_rgb_2m.tif"


@pytest.fixture
def folder(tmp_path):
    """A folder with a space and a letter that is not ASCII, which holds ``town ü.tif``."""
    made = tmp_path / "grüne Wiese"
    made.mkdir()
    (made / "town ü.tif").write_bytes(TOWN.read_bytes())
    return made


@pytest.fixture
def sample(tmp_path):
    """sample(name) -> copy of a sample scene: QGIS puts statistics beside what it opens."""

    def copy(name):
        return Path(shutil.copy(REPOSITORY / "sample_data" / name, tmp_path))

    return copy


def pixels(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


def new(folder):
    """Names but that of the source and of the statistics that QGIS itself puts beside it."""
    known = ("town ü.tif", "town ü.tif.aux.xml")
    return sorted(path.name for path in folder.iterdir() if path.name not in known)


def test_algorithm_output_equals_that_of_the_command(qgis, folder):
    product, same = folder / "größer 4x.tif", folder / "same.tif"
    code, result, log = qgis.run(
        "georsr:superresolve", INPUT=folder / "town ü.tif", OUTPUT=product, DEVICE="cpu"
    )
    assert code == 0, log
    assert result["results"] == {
        "OUTPUT": str(product),
        "SCALE": 4,
        "MODEL_NAME": "segsr-lite-x4-sensor",
    }
    assert "384 x 320 pixels" in log
    assert invoke(["sr", str(TOWN), str(same), "--device", "cpu", "-q"]) == 0
    assert np.array_equal(pixels(product), pixels(same))
    with rasterio.open(product) as dataset, rasterio.open(TOWN) as source:
        assert dataset.bounds == source.bounds
        assert dataset.crs == source.crs
    assert new(folder) == sorted([product.name, same.name])


def test_algorithm_bands_and_advanced_options_are_passed(qgis, folder, sample):
    product = folder / "o.tif"
    code, _, log = qgis.run(
        "georsr:superresolve",
        INPUT=sample("fields_4band_10m.tif"),
        OUTPUT=product,
        MODEL="2",  # as "qgis_process help" lists it: bicubic
        SCALE="2",
        RED=3,
        GREEN=2,
        BLUE=1,
        TILE=64,
        COG="true",
        NODATA="none",
        EXTRA="--co COMPRESS=ZSTD --dtype float32",
    )
    assert code == 0, log
    with rasterio.open(product) as dataset:
        assert (dataset.count, dataset.shape) == (3, (296, 328))
        assert dataset.descriptions == ("red", "green", "blue")
        assert dataset.dtypes[0] == "float32"
        assert dataset.compression.name == "zstd"
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_algorithm_sensor_is_passed_or_refused_in_one_line(qgis, folder, sample):
    values = {"INPUT": sample("fields_4band_10m.tif"), "OUTPUT": folder / "s.tif", "SCALE": "1"}
    code, _, log = qgis.run("georsr:superresolve", **values, SENSOR="mtf=9")
    assert code != 0
    assert "sensor 'mtf=9': expected one or more of mtf_half=0.01..2, mtf=0.01..2" in log
    assert "Traceback" not in log
    assert not (folder / "s.tif").exists()
    code, _, log = qgis.run("georsr:superresolve", **values, SENSOR="mtf=0.2,noise=0.01")
    assert code == 0, log
    with rasterio.open(folder / "s.tif") as dataset:
        assert "mtf=0.200,noise=0.0100" in dataset.tags()["GEORSR_SENSOR"]


def test_algorithm_as_a_step_of_a_model_runs(qgis, folder):
    product = folder / "stretched.tif"
    # QGIS 3.22 puts the step's name before the output's
    outputs = {"stretch:stretched": product, "stretched": product}
    code, _, log = qgis.run(str(MODEL), scene=folder / "town ü.tif", **outputs)
    assert code == 0, log
    with rasterio.open(product) as dataset:
        assert dataset.shape == (160, 192)
        values = dataset.read(1)
    assert (values.min(), values.max()) == pytest.approx((0, 1), abs=1e-6)


def test_algorithm_quality_layers_of_a_finished_output(qgis, folder):
    scene, product, layers = folder / "town ü.tif", folder / "x2.tif", folder / "layers.tif"
    assert invoke(["sr", str(scene), str(product), "-m", "segsr-lite-x2", "-q"]) == 0
    code, result, log = qgis.run(
        "georsr:qualitylayers", INPUT=scene, PRODUCT=product, OUTPUT=layers, DEVICE="cpu"
    )
    assert code == 0, log
    with rasterio.open(layers) as dataset, rasterio.open(product) as made:
        assert (dataset.shape, dataset.transform) == (made.shape, made.transform)
        assert ", ".join(dataset.descriptions) == result["results"]["LAYERS"]
        assert np.isfinite(dataset.read(1)).all()


def test_algorithm_model_information_returns_facts(qgis, folder):
    code, result, log = qgis.run("georsr:modelinformation", MODEL="segsr-lite", SCALE="2")
    assert code == 0, log
    results = result["results"]
    assert (results["NAME"], results["SCALE"]) == ("segsr-lite-x2", 2)
    assert results["BAND_NAMES"] == "red, green, blue"
    assert len(results["SHA256"]) == 64
    assert "trained_on: " in log
    assert "georsr works" in log
    scene = folder / "town ü.tif"
    code, result, log = qgis.run("georsr:modelinformation", MODEL="bicubic", SCALE="2", INPUT=scene)
    assert code == 0, log
    assert result["results"]["BAND_NAMES"] == "any"
    assert "tiles" in log


def test_algorithm_extent_in_another_crs_and_memory_mask(qgis, folder):
    result = qgis.play("areas", source=str(folder / "town ü.tif"), folder=str(folder))
    assert result["extent"]["ok"], result["extent"]["said"]
    with rasterio.open(folder / "extent.tif") as dataset, rasterio.open(TOWN) as source:
        half = source.bounds.left + (source.bounds.right - source.bounds.left) / 2
        assert dataset.bounds.right == pytest.approx(half, abs=10)
        assert dataset.bounds.left == source.bounds.left
    # in the raster's CRS; in one without a code; on a layer to which the project gives another CRS
    for name in ("mask", "odd", "corrected"):
        assert result[name]["ok"], result[name]["said"]
        with rasterio.open(folder / f"{name}.tif") as dataset, rasterio.open(TOWN) as source:
            assert dataset.shape == pytest.approx((80, 96), abs=2)
            assert (dataset.dataset_mask() > 0).mean() == pytest.approx(0.5, abs=0.05)
            assert dataset.crs == source.crs
    assert "another CRS than its file" in result["corrected"]["said"]
    assert not result["empty"]["ok"]
    assert "mask layer 'nothing' holds no polygon" in result["empty"]["said"]


def test_layers_of_outputs_have_names_and_colours_of_their_source(qgis, folder, sample):
    source = sample("fields_4band_10m.tif")
    results = qgis.play("layers", source=str(source), folder=str(folder))
    names = {"superresolve": "my fields x2", "preview": "my fields preview segsr-lite-x2-sensor"}
    for algorithm, name in names.items():
        result = results[algorithm]
        assert result["name"] == name, result["said"]
        # of red, green, blue, that are bands 3, 2, 1 of the source
        assert result["bands"] == [1, 2, 3]
        assert result["minima"] == [100, 101, 102]
        assert "bands 3,2,1 of 4 (red, green, blue)" in result["said"]
    assert "'Bands of the output': all" in results["superresolve"]["said"]
    assert "'Bands of the output' of 'Super-resolve raster': all" in results["preview"]["said"]
    gray = results["gray"]
    assert (gray["name"], gray["kind"]) == ("near infrared x2", "singlebandgray"), gray["said"]
    assert (gray["bands"], gray["minima"]) == ([1], [321])
    rgba = results["rgba"]
    assert (rgba["kind"], rgba["alpha"]) == ("multibandcolor", 4), rgba["said"]


def test_preview_is_a_small_part_of_the_output(qgis, folder):
    preview, whole = folder / "preview.tif", folder / "whole.tif"
    scene = folder / "town ü.tif"
    common = {"INPUT": scene, "MODEL": "bicubic", "SCALE": "2"}
    code, _, said = qgis.run("georsr:preview", **common, SIZE=32, OUTPUT=preview)
    assert code == 0, said
    assert invoke(["sr", str(TOWN), str(whole), "-m", "bicubic-x2", "-q"]) == 0
    assert np.array_equal(pixels(preview), pixels(whole)[:, 48:112, 64:128])


def test_preview_bands_are_given_to_the_model(qgis, folder, sample):
    fields = REPOSITORY / "sample_data" / "fields_4band_10m.tif"
    source, preview, whole = sample(fields.name), folder / "preview.tif", folder / "whole.tif"
    bands = {"RED": 4, "GREEN": 3, "BLUE": 2}
    place = {"SIZE": 32, "MODEL": 2, "SCALE": 1}  # as "qgis_process help" lists them: bicubic, 2
    code, _, said = qgis.run("georsr:preview", INPUT=source, **bands, **place, OUTPUT=preview)
    assert code == 0, said
    assert invoke(["sr", str(fields), str(whole), "-m", "bicubic-x2", "-b", "4,3,2", "-q"]) == 0
    with rasterio.open(preview) as dataset, rasterio.open(whole) as made:
        window = made.window(*dataset.bounds)
        assert dataset.descriptions == ("nir", "red", "green")
        assert np.array_equal(dataset.read(), made.read(window=window))


def test_preview_of_undeclared_bands_names_fields_of_qgis(qgis, folder, sample):
    with rasterio.open(sample("fields_4band_10m.tif")) as dataset:
        values, profile = dataset.read([1, 2, 3, 4, 4]), dataset.profile
    with rasterio.open(folder / "plain.tif", "w", **{**profile, "count": 5}) as dataset:
        dataset.write(values)
    code, _, said = qgis.run(
        "georsr:preview", INPUT=folder / "plain.tif", OUTPUT=folder / "never.tif"
    )
    assert code != 0
    error = next(line for line in said.splitlines() if "not declared" in line)
    assert "choose them with 'Red band, Green band, Blue band'" in error
    assert "'Bands of the output' of 'Super-resolve raster': all" in error
    assert "'Model': bicubic" in error
    assert "--" not in error
    code, _, said = qgis.run(
        "georsr:preview", INPUT=folder / "plain.tif", OUTPUT=folder / "never.tif", RED=1, BLUE=3
    )
    assert code != 0
    assert "choose the red, the green and the blue band, or none of them" in said


def test_batch_with_a_failing_row_runs_the_others(qgis, folder):
    result = qgis.play("batch", source=str(folder / "town ü.tif"), folder=str(folder))
    assert result == {"rows": 3}
    assert new(folder) == ["a.tif", "batch.json", "c.tif"]
    assert np.array_equal(pixels(folder / "a.tif"), pixels(folder / "c.tif"))


def test_algorithm_cancelled_leaves_the_old_file(qgis, folder, sample):
    old = folder / "old.tif"
    old.write_bytes(b"as it was")
    source = sample("town_rgb_0.5m.tif")
    result = qgis.play("cancel", source=str(source), output=str(old))
    assert result["ended"] == [False]
    assert 0 < max(result["seen"]) < 100
    assert old.read_bytes() == b"as it was"
    assert new(folder) == ["old.tif"]
    assert running(str(old)) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_qgis_killed_ends_georsr(qgis, folder, sample):
    product = folder / "o.tif"
    source = sample("town_rgb_0.5m.tif")
    words = [f"INPUT={source}", f"OUTPUT={product}", "TILE=32", "MODEL=segsr-lite"]
    process = qgis.start("run", "georsr:superresolve", "--", *words)
    limit = time.monotonic() + 120
    while not (folder / ".o.tif.part.tif").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    assert running(str(product))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    while (running(str(product)) or new(folder)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert running(str(product)) == []
    assert new(folder) == []


def running(word):
    """Command lines of processes that name ``word``, this one's left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in words and b"sr" in words:
            found.append(words)
    return found


@pytest.fixture
def unfit(tmp_path):
    """Programs that are no georsr, or not one that will do."""

    def program(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return {
        "gone": str(tmp_path / "gone"),
        "old": program("old", 'echo "georsr, version 0.0.9"'),
        "broken": program(
            "broken", "echo 'ModuleNotFoundError: No module named torch' >&2; exit 1"
        ),
        "no program": program("silent", ""),
    }


EXPECTED = {
    "web": "layer of the provider 'wms', not a file",
    "memory": "in the memory of QGIS only",
    "extra": "More options: No closing quotation",
    "bands": "choose the red, the green and the blue band, or none",
    "folder": "the folder /proc cannot be written to",
    "information of a web map": "layer of the provider 'wms', not a file",
    "gone": "there is no file",
    "old": "is georsr 0.0.9, but this plugin needs 0.1.0 or newer: run 'Install georsr'",
    "broken": "No module named torch; try '",
    "no program": "does not answer as georsr does",
}


def test_algorithm_bad_input_is_one_line_in_the_log(qgis, folder, unfit):
    result = qgis.play(
        "refusals",
        source=str(folder / "town ü.tif"),
        folder=str(folder),
        executables=unfit,
        output_nowhere="/proc/o.tif",
    )
    assert set(result["results"]) == set(EXPECTED)
    for name, message in EXPECTED.items():
        log = result["results"][name]
        assert not log["ok"], name
        last = log["said"].strip().splitlines()[-1]
        assert message in last, name
        assert last in result["logged"], name
    assert new(folder) == []


def test_algorithm_without_georsr_names_the_remedy(qgis, folder):
    code, _, log = qgis.run(
        "georsr:superresolve",
        environment={"GEORSR_EXECUTABLE": str(folder / "gone")},
        INPUT=folder / "town ü.tif",
        OUTPUT=folder / "o.tif",
    )
    assert code != 0
    assert "gone, which GEORSR_EXECUTABLE names; correct or empty it" in log
    assert new(folder) == []


BASIC = {"INPUT", "MODEL", "SCALE", "RED", "GREEN", "BLUE", "MODEL_FILE", "DEVICE", "OUTPUT"}


@pytest.mark.parametrize(
    ("algorithm", "names"),
    [
        ("superresolve", {"EXTENT", "MASK", "OUTPUT_BANDS", "TILE", "COG", "SENSOR", "EXTRA"}),
        ("preview", {"POINT", "SIZE"}),
    ],
)
def test_dialog_has_all_parameters_and_its_help_button_opens_a_page(algorithm, names, qgis, folder):
    result = qgis.play("dialog", source=str(folder / "town ü.tif"), name=algorithm)
    values = result["values"]
    assert BASIC | names <= set(values)
    assert (values["MODEL"], values["SCALE"]) == ("segsr-lite-sensor", "4")
    empty = {"RED", "GREEN", "BLUE", "EXTENT", "MASK", "TILE", "POINT"} & set(values)
    assert [name for name in empty if values[name] is not None] == []
    (page,) = result["opened"]
    assert "<h1>georsr in QGIS</h1>" in Path(page).read_text(encoding="utf-8")


def test_plugin_loaded_adds_a_menu_entry(qgis):
    result = qgis.play("menu")
    assert result["there"] == ["Super-resolve Raster…"]
    assert (result["left"], result["gone"]) == (0, True)
    assert result["version"] == "0.1.0"


def test_plugin_without_georsr_offers_to_install_it(qgis):
    result = qgis.play("offer", missing="/nowhere/georsr")
    assert any("there is no file /nowhere/georsr" in text for text in result["texts"])
    assert result["buttons"] == ["Install georsr…"]
    assert result["opened"] == ["install"]


@pytest.mark.parametrize(
    ("python", "messages"),
    [
        (sys.executable, ("onnxruntime", "check that this computer is online")),
        (shutil.which("false"), ("install the package python3-venv",)),
    ],
)
def test_install_that_fails_says_why_in_one_line_and_leaves_nothing(python, messages, qgis):
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    result = qgis.play("installation", package="georsr", variables=offline, python=python)
    assert not result["ok"]
    last = result["said"].strip().splitlines()[-1]
    assert "georsr was not installed: " in last
    assert all(message in last for message in messages), last
    assert not result["left"]

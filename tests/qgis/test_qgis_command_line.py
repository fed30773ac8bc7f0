"""Command lines that the plugin makes; georsr's own parser has the last word."""

import pytest
from georsr.cli.quality import layers
from georsr.cli.sr import command as sr
from georsr.qgis.georsr_processing.command_line import (
    CONSISTENCY,
    DEVICES,
    FIELDS,
    MODELS,
    OTHER_BANDS,
    OUTPUT_BANDS,
    SCALES,
    Request,
    layers_arguments,
    model_name,
    shown,
    split_extra,
    with_fields,
)

from georsr.config import CHOICES


def parsed(request):
    words = request.arguments()
    assert words[0] == "sr"
    return sr.make_context("sr", words[1:]).params


def test_arguments_of_all_parameters_are_parsed_by_sr():
    values = parsed(
        Request(
            source="/a b/ü in.tif",
            output="-odd.tif",
            model="segsr-lite-x2",
            indexes=[4, 3, 2],
            bounds=(-10.5, 0.1, 1e-7, 4.0),
            aoi="/a b/m ask.geojson",
            aoi_mask=False,
            tile_size=64,
            device="cpu",
            src_nodata="-9999",
            cog=True,
            consistency="on",
            sensor="mtf=0.2,noise=0.01",
            tta=True,
            quality="/a b/q.tif",
            output_bands="all",
            other_bands="per-band",
            extra="--co DESCRIPTION='Berlin North' --dtype uint16",
        )
    )
    assert values["paths"] == ("/a b/ü in.tif", "-odd.tif")
    assert values["model"] == "segsr-lite-x2"
    assert values["indexes"] == (4, 3, 2)
    assert values["bounds"] == (-10.5, 0.1, 1e-7, 4.0)
    assert values["aoi"] == "/a b/m ask.geojson"
    assert values["aoi_mask"] is False
    assert (values["tile_size"], values["device"], values["src_nodata"]) == (64, "cpu", -9999.0)
    assert values["cog"]
    assert (values["consistency"], values["tta"]) == ("on", True)
    assert values["sensor"] == "mtf=0.2,noise=0.01"
    assert (values["output_bands"], values["other_bands"]) == ("all", "per-band")
    assert values["quality"] == "/a b/q.tif"
    assert values["creation_options"] == {"DESCRIPTION": "Berlin North"}
    assert values["dtype"] == "uint16"


def test_arguments_without_options_keep_the_defaults():
    values = parsed(Request("in.tif", "out.tif", "bicubic-x2"))
    plain = sr.make_context("sr", ["in.tif", "out.tif"]).params
    ours = {"model", "progress", "as_json", "overwrite", "resume"}
    assert {k: v for k, v in values.items() if k not in ours} == {
        k: v for k, v in plain.items() if k not in ours
    }
    assert (values["progress"], values["as_json"]) == ("json", True)
    assert values["overwrite"] is True
    assert values["resume"] is False


def test_layers_arguments_are_parsed_by_quality_layers():
    words = layers_arguments("-in.tif", "p.tif", "q.tif", "w.safetensors", "m.geojson", "cpu")
    assert words[:2] == ["quality", "layers"]
    values = layers.make_context("layers", words[2:]).params
    assert (values["sources"], values["product"]) == (("-in.tif",), "p.tif")
    assert (values["destination"], values["model"]) == ("q.tif", "w.safetensors")
    assert (values["aoi"], values["device"]) == ("m.geojson", "cpu")
    assert (values["resume"], values["overwrite"]) == (False, True)
    plain = layers.make_context("layers", layers_arguments("i", "p", "q", "", None, "auto")[2:])
    assert (plain.params["model"], plain.params["aoi"]) == (None, None)


def test_split_extra_splits_as_a_shell():
    assert split_extra("") == []
    assert split_extra(r"--aoi 'C:\my data\a.geojson' -q") == [
        "--aoi",
        r"C:\my data\a.geojson",
        "-q",
    ]
    with pytest.raises(ValueError, match="quotation"):
        split_extra("--aoi 'open")


def test_shown_command_is_quoted():
    assert shown(["georsr", "sr", "a b.tif"]) == "georsr sr 'a b.tif'"


@pytest.mark.parametrize(
    "address",
    [
        "/vsicurl/https://h/a.tif?sig=SECRET",
        "https://me:SECRET@h/a.tif",
        "/vsicurl?header.Authorization=SECRET&url=https://h/a.tif",
        "https://SECRET@h/a.tif#SECRET",
    ],
)
def test_shown_command_hides_secrets(address):
    assert "SECRET" not in shown(["georsr", "sr", address, "out.tif"])
    assert shown(["a?b.tif", "#c"]) == "'a?b.tif' '#c'"


def test_choices_equal_those_of_georsr():
    from georsr.models.registry import DEFAULT, bundled_weights, list_models, resolve_name

    names = {spec.name for spec in list_models()}
    offered = {model_name(model, scale) for model in MODELS for scale in SCALES} & names
    assert offered >= set(bundled_weights()), "name new models in the plugin's catalogue"
    assert model_name(MODELS[0], SCALES[0]) == DEFAULT.format(scale=4) == resolve_name(None, None)
    assert model_name("bicubic", "3") in names
    assert DEVICES[0] == "auto"
    assert CHOICES["output_bands"] == OUTPUT_BANDS
    assert CHOICES["other_bands"] == OTHER_BANDS
    assert CHOICES["consistency"] == CONSISTENCY


def test_with_fields_names_fields_instead_of_options():
    def shown(message):
        return with_fields(message, [*(name for name, _ in FIELDS.values()), "EXTRA"])

    message = "got 4; choose with --bidx; or use --band-mode per-band, or --dtype uint16"
    assert shown(message) == (
        "got 4; choose with 'Red band, Green band, Blue band'; or use 'How the other bands are "
        "enlarged': per-band, or --dtype uint16 (in 'More options')"
    )
    assert shown("use --bidx R,G,B, or --nodata none, or --allow-driver VRT") == (
        "use 'Red band, Green band, Blue band', or 'Nodata value of the input': none, or "
        "--allow-driver VRT (in 'More options')"
    )
    assert shown("run `rio convert --dtype uint8`") == "run `rio convert --dtype uint8`"


def test_with_fields_that_an_algorithm_lacks_names_the_one_that_has_them():
    message = "choose with --bidx, or --consistency on, or --backend torch"
    assert with_fields(message, ["RED", "GREEN", "BLUE"]) == (
        "choose with 'Red band, Green band, Blue band', or 'Consistency with the input' of "
        "'Super-resolve raster': on, or --backend torch (in 'More options' of 'Super-resolve "
        "raster')"
    )

"""What a user is told about a source."""

import pytest

import georsr


@pytest.mark.parametrize("times", [1, 2, 4])
def test_run_of_an_upsampled_source_warns_once(make_raster, texture, tmp_path, recwarn, times):
    image = texture(3, 120 // times, 90).repeat(times, 1).repeat(times, 2)
    path = make_raster(image)
    report = georsr.super_resolve(path, tmp_path / "o.tif", "segsr-lite-x2")
    texts = [str(warning.message) for warning in recwarn if "every pixel" in str(warning.message)]
    assert texts == [text for text in report.warnings if "every pixel" in text]
    if times == 1:
        assert texts == []
    else:
        assert len(texts) == 1
        assert f"{times} x {times} times" in texts[0]
        assert f"-outsize {100 // times}% {100 // times}%" in texts[0]


def test_run_with_bicubic_of_an_upsampled_source_does_not_warn(make_raster, texture, tmp_path):
    path = make_raster(texture(3, 60, 60).repeat(2, 1).repeat(2, 2))
    report = georsr.super_resolve(path, tmp_path / "o.tif", "bicubic-x2")
    assert not any("every pixel" in text for text in report.warnings)

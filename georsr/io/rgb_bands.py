"""Find which bands of a raster are red, green and blue: by colour, name, code or wavelength."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from georsr.errors import UsageError
from georsr.io.metadata import BandInfo, RasterInfo

COLORS = ("red", "green", "blue")
NANOMETRES = {"red": (620, 700, 660), "green": (510, 600, 558), "blue": (430, 520, 488)}
"""Colour -> shortest, longest and typical wavelength."""
OTHER_BANDS = re.compile(r"edge|infra|nir|swir|coastal|yellow|pan")
"""Matches the name of a band that is neither red, green nor blue."""

SENTINEL_2 = {"b04": "red", "b03": "green", "b02": "blue"}
LANDSAT_OLI = {"b4": "red", "b3": "green", "b2": "blue"}
LANDSAT_TM = {"b3": "red", "b2": "green", "b1": "blue"}

ASSUMED_BANDS = {
    3: ((1, 2, 3), "red, green, blue"),
    6: ((3, 2, 1), "blue, green, red, then infrared, as Landsat TM and HLS stacks"),
    7: ((4, 3, 2), "coastal, blue, green, red, as Landsat 8"),
    8: ((6, 4, 2), "the order of PlanetScope SuperDove"),
    10: ((3, 2, 1), "blue, green, red, then infrared, as HLS and Sentinel-2 stacks"),
    11: ((4, 3, 2), "coastal, blue, green, red, as Landsat 8"),
    12: ((4, 3, 2), "the order of Sentinel-2"),
    13: ((4, 3, 2), "the order of Sentinel-2"),
}
"""Number of bands -> (red, green, blue) and the reason, if the metadata do not declare them."""


@dataclass(frozen=True)
class RGBBands:
    """Numbers of the red, green and blue band."""

    numbers: tuple[int, ...]
    """Band numbers from 1."""
    note: str = ""
    """One line for the user if the bands were assumed; empty if the metadata declare them."""


def declared_rgb_bands(bands: Sequence[BandInfo]) -> tuple[int, ...] | None:
    """Return the numbers of red, green and blue by colour, name, code or wavelength, or None."""
    candidates = (detect(bands) for detect in (_by_color, _by_words, _by_codes, _by_wavelength))
    return next((numbers for numbers in candidates if numbers is not None), None)


def detect_rgb_bands(info: RasterInfo) -> RGBBands:
    """Find red, green and blue among the selected bands.

    They are found by colour interpretation, by name (red; B04, B03, B02 of Sentinel-2; SR_B4 ... of
    Landsat), or by wavelength in tags and names. Otherwise they are assumed by the number of bands.

    Raises
    ------
    UsageError
        The metadata do not declare the bands, and no order can be assumed.
    """
    declared = declared_rgb_bands(info.bands)
    if declared is not None:
        return RGBBands(declared)
    positions, reason = _assumed(info)
    numbers = tuple(info.bands[position - 1].number for position in positions)
    number_list = ",".join(map(str, numbers))
    return RGBBands(
        numbers,
        f"{info.path}: red, green and blue are not declared, assuming bands {number_list} "
        f"({reason}); if that is wrong, use --bidx R,G,B",
    )


def _assumed(info: RasterInfo) -> tuple[tuple[int, ...], str]:
    if info.count == 4:
        if info.dtype == "uint8":
            return (1, 2, 3), "red, green, blue, near infrared, as NAIP"
        return (3, 2, 1), "blue, green, red, near infrared, as PlanetScope"
    if info.count in ASSUMED_BANDS:
        return ASSUMED_BANDS[info.count]
    raise UsageError(
        f"{info.path}: not declared which of its {info.count} bands are red, green and blue: "
        f"choose them with --bidx R,G,B, from: {', '.join(info.selectable_bands)}; or use "
        "--bands all with --band-mode per-band, or --model bicubic"
    )


def _complete(bands: dict[str, int]) -> tuple[int, ...] | None:
    return tuple(bands[color] for color in COLORS) if len(bands) == len(COLORS) else None


def _by_color(bands: Sequence[BandInfo]) -> tuple[int, ...] | None:
    colors = {band.colorinterp: band.number for band in bands if band.colorinterp in COLORS}
    return _complete(colors)


def _by_words(bands: Sequence[BandInfo]) -> tuple[int, ...] | None:
    """Find names such as ``red``, ``Band 3: Green`` or ``sur_refl_blue``, shortest names first."""
    rgb: dict[str, int] = {}
    for band in sorted(bands, key=lambda band: len(band.description or "")):
        name = (band.description or "").lower()
        words = set(re.split(r"[^a-z]+", name))
        for color in COLORS:
            if color in words and not OTHER_BANDS.search(name):
                rgb.setdefault(color, band.number)
    return _complete(rgb)


def _by_codes(bands: Sequence[BandInfo]) -> tuple[int, ...] | None:
    """Find names such as ``B04``, ``B4, central wavelength 665 nm`` or ``SR_B4``."""
    codes: dict[str, int] = {}
    for band in bands:
        match = re.search(r"(?:^|[_\s])(b\d{1,2}a?)(?![a-z0-9])", (band.description or "").lower())
        if match:
            codes.setdefault(match[1], band.number)
    if not codes:
        return None
    tm = "b1" in codes and "b6" not in codes and "b8a" not in codes and "b8" not in codes
    tm = tm and any("sr_b" in (band.description or "").lower() for band in bands)
    for table in (LANDSAT_TM,) if tm else (SENTINEL_2, LANDSAT_OLI):
        rgb = _complete({color: codes[code] for code, color in table.items() if code in codes})
        if rgb is not None:
            return rgb
    return None


def _by_wavelength(bands: Sequence[BandInfo]) -> tuple[int, ...] | None:
    rgb: dict[str, int] = {}
    for color, (shortest, longest, typical) in NANOMETRES.items():
        candidates = [
            (abs(length - typical), band.number)
            for band in bands
            if (length := _nanometres(band)) is not None and shortest <= length <= longest
        ]
        if candidates:
            rgb[color] = min(candidates)[1]
    return _complete(rgb)


def _nanometres(band: BandInfo) -> float | None:
    """Return the central wavelength in tags, or in a name that gives its unit."""
    tags = {
        key.lower(): value
        for space in ("", "IMAGERY")
        for key, value in band.tags.get(space, {}).items()
    }
    for key in ("wavelength", "central_wavelength", "center_wavelength", "central_wavelength_um"):
        try:
            value = float(tags[key].split()[0])
        except (KeyError, ValueError, IndexError):
            continue
        return value * 1000 if value < 100 else value
    named = re.search(
        r"(\d+(?:\.\d+)?)\s*(nm|nanomet|um|µm|micromet)", (band.description or "").lower()
    )
    if named is None:
        return None
    return float(named[1]) * (1 if named[2].startswith("n") else 1000)

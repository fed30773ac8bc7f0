"""Register rasters: compare their grids, and measure sub-pixel shifts by phase correlation."""

from __future__ import annotations

import math

import numpy as np
from affine import Affine

from georsr.errors import InputError, UsageError
from georsr.io.metadata import RasterInfo, format_pixel_size
from georsr.window import AnyArray, Window

TOLERANCE = 0.01
"""Distance, in pixels, up to which two grids count as one."""


def offset_between(sr: RasterInfo, hr: RasterInfo) -> tuple[int, int]:
    """Return (row, column) of the SR raster's corner in the HR raster's grid.

    Raises
    ------
    UsageError
        They differ in CRS or grid; or in size, and have no geotransform.
    """
    if sr.crs != hr.crs:
        raise UsageError(f"{sr.path} and {hr.path} differ in CRS: {sr.crs} and {hr.crs}")
    if sr.transform is None or hr.transform is None:
        if (sr.height, sr.width) != (hr.height, hr.width):
            raise UsageError(
                f"{sr.path} ({sr.width} x {sr.height}) and {hr.path} ({hr.width} x {hr.height}) "
                "differ in size and have no geotransform to align them by"
            )
        return 0, 0
    to_hr = ~hr.transform @ sr.transform
    if _skew(to_hr, sr) > TOLERANCE:
        raise UsageError(
            f"{sr.path} has pixels of {format_pixel_size(sr)}, {hr.path} of "
            f"{format_pixel_size(hr)}: expected those of the output; resample the truth first, or, "
            "if it is the source of the output, name it with --lr"
        )
    shift = max(abs(to_hr.f - round(to_hr.f)), abs(to_hr.c - round(to_hr.c)))
    if shift > TOLERANCE:
        raise UsageError(
            f"{sr.path} and {hr.path} are not on one pixel grid (off by {shift:.3g} pixels); "
            "resample one of them first"
        )
    return round(to_hr.f), round(to_hr.c)


def _skew(relative: Affine, info: RasterInfo) -> float:
    """Return how far two grids with a common corner are apart at the opposite one, in pixels."""
    return max(
        abs(relative.a - 1) * info.width,
        abs(relative.b) * info.height,
        abs(relative.e - 1) * info.height,
        abs(relative.d) * info.width,
    )


def common_windows(sr: RasterInfo, hr: RasterInfo) -> tuple[Window, Window]:
    """Return the area that both rasters cover, as a window of each.

    Raises
    ------
    UsageError
        As for :func:`offset_between`.
    InputError
        They do not overlap.
    """
    row, column = offset_between(sr, hr)
    area = Window(row, column, sr.height, sr.width).intersection(Window(0, 0, hr.height, hr.width))
    if area is None:
        raise InputError(f"{sr.path} and {hr.path} do not overlap")
    return area.relative_to(Window(row, column, sr.height, sr.width)), area


def scale_between(sr: RasterInfo, lr: RasterInfo) -> int:
    """Return how many times finer an output is than its source.

    Raises
    ------
    UsageError
        The output's size is not 1 to 8 times the source's, or their corners differ.
    """
    scale, rest = divmod(sr.width, lr.width)
    if rest or sr.height != scale * lr.height or not 1 <= scale <= 8:
        raise UsageError(
            f"{sr.path} ({sr.width} x {sr.height}) is not {lr.path} "
            f"({lr.width} x {lr.height}) enlarged 1 to 8 times"
        )
    if sr.transform is not None and lr.transform is not None:
        relative = ~lr.transform @ sr.transform @ Affine.scale(scale)
        distance = max(abs(relative.c), abs(relative.f), _skew(relative, lr))
        if distance > TOLERANCE:
            raise UsageError(
                f"{sr.path} and {lr.path} do not cover the same ground "
                f"(off by {distance:.3g} pixels of the latter)"
            )
    return scale


def window_of_output(sr: RasterInfo, lr: RasterInfo) -> Window | None:
    """Return the part of a source that its output covers; None if it is unknown.

    Outputs of an area cover whole pixels of their source.
    """
    if sr.transform is None or lr.transform is None or sr.crs != lr.crs:
        return None
    relative = ~lr.transform @ sr.transform
    scale = round(1 / relative.a) if relative.a > 0 else 0
    if not scale or sr.width % scale or sr.height % scale:
        return None
    left, top = round(relative.c), round(relative.f)
    if max(abs(relative.c - left), abs(relative.f - top)) > TOLERANCE:
        return None
    window = Window(top, left, sr.height // scale, sr.width // scale)
    inside = window.intersection(Window(0, 0, lr.height, lr.width))
    return window if inside == window else None


PASSES = 3
"""Estimates, each with the window moved along with the content; the third changes < 0.001 px."""
FINEST_STEP = 0.01
"""Step in pixels of the finest grid, which a parabola refines further."""


def phase_shift(a: AnyArray, b: AnyArray, scale: float = 1.0) -> tuple[float, float]:
    """Estimate the shift of the content of ``a`` against that of ``b``.

    The cross spectrum, divided by the square root of its magnitude (half-way between correlation
    and phase correlation: sharp peak, little noise) and limited to frequencies both images
    resolve, is evaluated on ever finer grids round its peak (Guizar-Sicairos, Thurman and Fienup,
    "Efficient subpixel image registration algorithms", Optics Letters 33(2), 2008). A fixed
    window would bias the estimate towards zero, so each pass shifts the two windows by it.

    Parameters
    ----------
    a, b
        (H, W), at least 16 x 16, any real dtype; shifts beyond a quarter of the image are not
        found.
    scale
        Pixels per independent sample of the blurrier image: for a super-resolved image, its scale.
        Frequencies far above 1 / (8 scale) cycles per pixel, where that image holds aliases and
        synthesised detail, have no weight.

    Returns
    -------
    dy, dx : float
        Pixels down and right, so that ``a(y, x) = b(y - dy, x - dx)``. NaN where an image is flat.
    """
    if a.shape != b.shape or a.ndim != 2 or min(a.shape) < 16:
        raise ValueError(f"shapes {a.shape} and {b.shape}, expected two alike of at least (16, 16)")
    a, b = a.astype(np.float64), b.astype(np.float64)
    if _is_flat(a) or _is_flat(b):
        return math.nan, math.nan
    shift, cutoff = np.zeros(2), 1 / (8 * scale)
    for number in range(PASSES):
        spectrum = _cross_spectrum(a, b, shift, cutoff)
        shift = _refine_peak(spectrum, shift if number else _coarse_peak(spectrum), cutoff)
    return float(shift[0]), float(shift[1])


def _is_flat(image: AnyArray) -> bool:
    return float(np.ptp(image)) <= 1e-9 * float(np.abs(image).max())


def _hann(length: int, offset: float) -> AnyArray:
    """Return a Hann window whose middle is ``offset`` pixels from the middle of the samples."""
    x = (np.arange(length) - (length - 1) / 2 - offset) / length
    return np.asarray(np.cos(np.pi * np.clip(x, -0.5, 0.5)) ** 2)


def _windowed(image: AnyArray, offset: AnyArray) -> AnyArray:
    window = np.outer(_hann(image.shape[0], offset[0]), _hann(image.shape[1], offset[1]))
    return np.asarray((image - (image * window).sum() / window.sum()) * window)


def _cross_spectrum(a: AnyArray, b: AnyArray, shift: AnyArray, cutoff: float) -> AnyArray:
    spectrum = np.fft.fft2(_windowed(a, shift / 2)) * np.fft.fft2(_windowed(b, -shift / 2)).conj()
    magnitude = np.abs(spectrum)
    fy, fx = np.fft.fftfreq(a.shape[0])[:, None], np.fft.fftfreq(a.shape[1])
    lowpass = np.exp(-(fy**2 + fx**2) / (2 * cutoff**2))
    return np.asarray(spectrum / np.sqrt(np.maximum(magnitude, 1e-12 * magnitude.max())) * lowpass)


def _coarse_peak(spectrum: AnyArray) -> AnyArray:
    """Return the peak in whole pixels, each axis in -n/2 .. n/2."""
    correlation = np.fft.ifft2(spectrum).real
    peak = np.array(np.unravel_index(correlation.argmax(), correlation.shape))
    size = np.array(correlation.shape)
    return np.where(peak > size // 2, peak - size, peak).astype(np.float64)


def _refine_peak(spectrum: AnyArray, start: AnyArray, cutoff: float) -> AnyArray:
    fy, fx = (np.fft.fftfreq(n) for n in spectrum.shape)
    # other frequencies have almost no weight
    rows, columns = np.abs(fy) <= 4 * cutoff, np.abs(fx) <= 4 * cutoff
    part = spectrum[np.ix_(rows, columns)]
    shift = start
    for step in (0.25, 0.05, FINEST_STEP):
        grid = np.arange(-6, 7) * step
        # the inverse DFT at positions between the samples
        down = np.exp(2j * np.pi * np.outer(shift[0] + grid, fy[rows]))
        right = np.exp(2j * np.pi * np.outer(fx[columns], shift[1] + grid))
        values = (down @ part @ right).real
        row, column = np.unravel_index(values.argmax(), values.shape)
        row, column = np.clip([row, column], 1, len(grid) - 2)
        shift = shift + np.array([grid[row], grid[column]])
    finer = [_parabola(values[row - 1 : row + 2, column]), _parabola(values[row, column - 1 :][:3])]
    return np.asarray(shift + FINEST_STEP * np.array(finer))


def _parabola(values: AnyArray) -> float:
    """Return the position of the maximum of the parabola through values at -1, 0, 1."""
    left, middle, right = values
    curvature = left - 2 * middle + right
    return float(0.5 * (left - right) / curvature) if curvature < 0 else 0.0

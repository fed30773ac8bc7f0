"""Edges whose blur, ringing, place and direction are known."""

import math

import numpy as np
import pytest

from georsr.evaluation.edges import find_edges, measure_edge, measure_edges

RISE = 2 * 1.2815515655446004
"""10-90 % width of a gaussian-blurred edge, in sigmas."""


def normal_cdf(x):
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def distance_from_line(size, angle, scale=1, offset=0.0):
    """Signed distance, in source pixels, of every pixel from a line through the middle."""
    y, x = (np.indices((size * scale,) * 2) + 0.5) / scale - size / 2
    radians = math.radians(angle)
    return x * math.cos(radians) + y * math.sin(radians) - offset


def gaussian_edge(sigma, angle, scale=1, size=48, offset=0.0):
    return 60 + 120 * normal_cdf(distance_from_line(size, angle, scale, offset) / sigma)


@pytest.mark.parametrize("angle", [7, 38, 97, 171, -100])
@pytest.mark.parametrize("sigma", [0.6, 1.1])
def test_edge_width_of_a_gaussian_equals_the_formula(sigma, angle):
    image = gaussian_edge(sigma, angle)
    edges = find_edges(image)
    assert edges
    widths, overshoots = measure_edges(image, edges).T
    np.testing.assert_allclose(widths, RISE * sigma, rtol=0.05)
    assert overshoots.max() < 0.5


@pytest.mark.parametrize("angle", [0, 90, 23])
@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.9])
def test_edge_width_on_a_finer_grid_is_in_source_pixels(sigma, angle):
    edges = find_edges(gaussian_edge(0.8, angle))
    output = gaussian_edge(sigma, angle, scale=4)
    widths = measure_edges(output, edges, 4)[:, 0]
    assert np.isfinite(widths).all()
    np.testing.assert_allclose(widths, RISE * sigma, rtol=0.03)


def test_edge_width_with_noise_keeps_its_median():
    rng = np.random.default_rng(0)
    wide = [gaussian_edge(0.7, angle) for angle in range(-80, 80, 7)]
    noisy = [image + rng.normal(0, 2, image.shape) for image in wide]
    figures = np.concatenate([measure_edges(i, find_edges(i)) for i in noisy])
    assert len(figures) > 40
    assert np.nanmedian(figures[:, 0]) == pytest.approx(RISE * 0.7, rel=0.05)


def test_edge_overshoot_equals_that_of_the_profile():
    d = distance_from_line(48, 12)
    ringing = normal_cdf(d / 0.7) + 0.5 * (normal_cdf(d / 0.7) - normal_cdf(d / 1.2))
    line = np.linspace(0, 3, 1000)
    truth = normal_cdf(line / 0.7) + 0.5 * (normal_cdf(line / 0.7) - normal_cdf(line / 1.2))
    _, overshoot = measure_edge(200 * ringing, find_edges(gaussian_edge(0.8, 12))[0])
    assert overshoot == pytest.approx(100 * (truth.max() - 1), abs=0.7)


def test_find_edges_returns_the_position():
    edge = find_edges(gaussian_edge(0.8, 30, offset=2.3))[0]
    dy, dx = edge.row + 0.5 - 24, edge.column + 0.5 - 24
    normal = math.sin(math.radians(30)), math.cos(math.radians(30))
    assert dy * normal[0] + dx * normal[1] == pytest.approx(2.3, abs=0.03)
    assert edge.normal == pytest.approx(normal, abs=0.02)


def test_find_edges_rejects_curves_and_texture():
    rng = np.random.default_rng(1)
    assert find_edges(rng.normal(100, 20, (64, 64))) == []
    assert find_edges(np.full((64, 64), 9.0)) == []
    y, x = np.indices((64, 64)) - 31.5
    assert find_edges(np.where(np.hypot(y, x) < 6, 200.0, 50.0)) == []
    line = np.exp(-0.5 * distance_from_line(64, 20) ** 2)
    assert find_edges(255 * line) == []
    assert find_edges(gaussian_edge(0.8, 10)[:15]) == []


def test_find_edges_avoids_invalid_pixels():
    image = gaussian_edge(0.8, 10)
    valid = np.ones(image.shape, bool)
    valid[:, 20:28] = False
    image[~valid] = -9999
    assert find_edges(image, valid) == []
    assert find_edges(image, np.zeros_like(valid)) == []


def test_find_edges_along_the_grid_at_scale_1_finds_none():
    image = gaussian_edge(0.5, 0)
    assert measure_edge(image, find_edges(gaussian_edge(0.5, 0))[0]) is None
    assert np.isnan(measure_edges(image, find_edges(image))).all()

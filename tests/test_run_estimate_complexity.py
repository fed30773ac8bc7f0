import pytest
import torch
from torch import nn

from georsr.models.io import build
from georsr.models.registry import COMPUTED
from georsr.models.segsr_lite import segsr_lite
from georsr.models.spec import ModelSpec
from georsr.run_estimate import complexity
from tests.models import golden


def test_complexity_of_a_convolution():
    measured = complexity(nn.Conv2d(3, 8, 3, padding=1), 3, 16)
    assert measured.macs == 16 * 16 * 3 * 8 * 9
    assert measured.parameters == 3 * 8 * 9 + 8
    assert measured.gmacs == pytest.approx(measured.macs / 1e9)


def test_complexity_leaves_the_network_unchanged():
    for network, bands in (
        (segsr_lite(2), 3),
        (build(COMPUTED["bicubic-x2"]), 0),
        (build(COMPUTED["nearest-x2"]), 0),
    ):
        measured = complexity(network, bands, 64)
        assert measured.parameters == sum(p.numel() for p in network.parameters())
        assert all(p.device.type == "cpu" for p in network.parameters())


def test_complexity_of_the_published_network():
    spec = ModelSpec("s", "segsr-published", 4, multiple_of=16, tile=64)
    with torch.device("meta"):
        network = build(spec)
    measured = complexity(network, 3, 64)
    assert measured.gmacs == pytest.approx(137, rel=0.03)
    assert measured.parameters == pytest.approx(116.1e6, rel=0.001)
    assert golden.COMPACT.stat().st_size < 20_000

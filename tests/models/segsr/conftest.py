import copy

import pytest
import torch

from georsr.models.segsr.segsr import segsr
from tests.models.segsr import golden

TINY_CLIP = {"width": 64, "layers": 1, "heads": 2, "tokens": 64, "grid": 4}


def small(scale=2, **options):
    """A small network with random weights, the same at every call."""
    torch.manual_seed(0)
    options = {"groups": 2, "blocks": 2, "width": 120, "heads": 4, "clip": TINY_CLIP} | options
    if options.get("encoder") == "scene":
        options["clip"] = {"tokens": 32}
    return segsr(scale, **options)


@pytest.fixture
def network():
    return small().eval()


@pytest.fixture(scope="session")
def tiny_entries():
    """Published entries of tiny_x4, local prompts included."""
    shapes, _ = golden.compact("tiny_x4")
    return golden.entries(shapes, groups=2)


@pytest.fixture
def checkpoint(tmp_path, tiny_entries):
    """checkpoint(change=None, **wrapping) -> path of a BasicSR file with changed entries."""

    def make(change=None, name="seg_x4.pth", key="params_ema"):
        entries = copy.copy(tiny_entries)
        if change is not None:
            change(entries)
        path = tmp_path / name
        torch.save({key: entries}, path)
        return path

    return make

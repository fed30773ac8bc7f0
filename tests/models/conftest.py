import copy

import pytest
import torch

from georsr.models.optimize import optimize_for_inference
from georsr.models.segsr import segsr
from georsr.models.segsr_published import PublishedSegSR
from tests.models import golden

TINY_CLIP = {"width": 64, "layers": 1, "num_heads": 2, "token_dim": 64, "grid_size": 4}


SMALL = {"num_groups": 2, "depth": 2, "embed_dim": 120}


def small(scale=2, published=False, **options):
    """Build a small network with random weights, the same at every call."""
    torch.manual_seed(0)
    options = SMALL | options
    if options.get("encoder", "clip") == "clip":
        options.setdefault("encoder_options", TINY_CLIP)
    if published:
        return PublishedSegSR(scale, num_heads=4, **options)
    if options.get("backbone", "hat") == "hat":
        options["backbone_options"] = {"num_heads": 4}
    return segsr(scale, **options)


@pytest.fixture
def network():
    """A small network as it is run: optimized, in evaluation mode."""
    return optimize_for_inference(small().eval())


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

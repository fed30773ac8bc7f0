"""Golden data of the published network: inputs, weights by rule, and its outputs.

``tests/data/segsr_tiny.npz`` holds samples of the tiny cases and the published names and shapes;
the complete arrays are used where ``shared/golden`` lies beside the checkout (or beside the folder
named by GEORSR_TEST_DATA). ``python -m tests.models.golden`` rewrites the samples from them.
"""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
COMPACT = REPOSITORY / "tests" / "data" / "segsr_tiny.npz"
TINY = ("tiny_x4", "tiny_x2")
SIZES = ((64, 64), (48, 80))
SAMPLES = 300


def folder():
    """Return the folder of the complete golden arrays, or None."""
    data = os.environ.get("GEORSR_TEST_DATA")
    found = Path(data).parent / "golden" if data else REPOSITORY.parent / "shared" / "golden"
    return found if found.is_dir() else None


def tile(height, width):
    """Return the input of every case, (1, 3, h, w) float32: two waves per band and fixed noise."""
    band, y, x = np.mgrid[:3, :height, :width].astype(np.float64)
    waves = np.sin(y / 16 + 0.7 * band) * np.cos(1.3 * x / 16 - 0.7 * band)
    noise = np.random.RandomState(7).standard_normal(waves.shape)
    return np.clip(0.5 + 0.3 * waves + 0.08 * noise, 0, 1)[None].astype(np.float32)


def weight(name, shape):
    """Return the value of a published entry, which follows from its name and shape."""
    if name.endswith("running_mean"):
        return np.zeros(shape, np.float32)
    if name.endswith("running_var"):
        return np.ones(shape, np.float32)
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    n = draw.standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape)
    root = np.sqrt(int(np.prod(shape[1:])) if len(shape) > 1 else 1)
    last = name.split(".")[-1]
    if "lora_" in name:
        return np.float32(0.5 * n / root)
    if last in ("bias", "relative_position_bias_table"):
        return np.float32((0.02 if last == "bias" else 0.2) * n)
    if last in ("class_embedding", "positional_embedding", "text_global"):
        return np.float32(0.05 * n)
    if name.startswith("text_locals"):
        return np.float32(0.05 * n)
    if last == "proj":
        return np.float32(n / np.sqrt(shape[0]))
    if last == "weight" and len(shape) == 1:
        return np.float32(1 + 0.1 * n)
    gentle = 0.05 if ".mlp_gamma." in name or ".mlp_beta." in name else 1.0
    return np.float32(gentle * n / root)


def entries(shapes, groups, prompts=True):
    """Return a published state dict by that rule."""
    shapes = dict(shapes)
    if prompts:
        shapes |= {f"text_locals.{i}": (512, 1) for i in range(groups)}
    return {
        name: torch.from_numpy(np.asarray(weight(name, tuple(shape)), np.float32))
        for name, shape in shapes.items()
    }


def compact(case):
    """Return shapes by published name, and samples by array name, of a tiny case."""
    with np.load(COMPACT) as stored:
        names = json.loads(zlib.decompress(stored[f"{case}/names"].tobytes()))
        prefix = f"{case}/sample/"
        samples = {k.removeprefix(prefix): stored[k] for k in stored if k.startswith(prefix)}
    return names, samples


def sample(values):
    """Return at most 300 values spread over an array."""
    flat = np.asarray(values).ravel()
    return flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(int)]


def rewrite():
    """Write the compact file from the complete arrays."""
    stored = {}
    for case in TINY:
        names = json.loads((folder() / f"{case}.json").read_text())["keys"]
        text = json.dumps(names, separators=(",", ":")).encode()
        stored[f"{case}/names"] = np.frombuffer(zlib.compress(text, 9), np.uint8)
        with np.load(folder() / f"{case}.npz") as arrays:
            for key in arrays:
                if not key.startswith("input"):
                    stored[f"{case}/sample/{key}"] = sample(arrays[key])
    np.savez_compressed(COMPACT, **stored)


if __name__ == "__main__":
    rewrite()

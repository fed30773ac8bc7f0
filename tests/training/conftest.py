import numpy as np
import pytest
import torch
from PIL import Image

from georsr.training.recipe import DataSettings, LossSettings, Recipe, ScheduleSettings


@pytest.fixture
def image_folder(tmp_path):
    """Two classes, train and val, small textured images with structure to learn."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:48, :48]
    for part, count in (("train", 6), ("val", 2)):
        for label, period in (("fields", 7.0), ("town", 3.0)):
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                phase, angle = rng.random(2) * 6
                wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / period * 3 + phase)
                rgb = 128 + 80 * wave[..., None] * rng.random(3) + rng.normal(0, 3, (48, 48, 3))
                image = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
                image.save(folder / f"{label}{i:02d}.png")
    return tmp_path / "data"


@pytest.fixture
def tiny(image_folder):
    """A run of seconds: the real architecture, small."""
    return Recipe(
        name="tiny-x2",
        scale=2,
        network={"embed_dim": 8, "num_groups": 2, "depth": 1, "token_dim": 8},
        data=DataSettings(root=(str(image_folder),)),
        patch=16,
        batch=2,
        steps=6,
        schedule=ScheduleSettings(warmup=2),
        loss=LossSettings(squared_share=0.2, scene=0.001),
        precision="fp32",
        validate_every=3,
    )


@pytest.fixture
def clip_file(tmp_path):
    """A small CLIP image tower as open_clip saves it."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    torch.manual_seed(3)
    tower = VisionTransformer(
        image_size=64,
        patch_size=16,
        width=64,
        layers=1,
        heads=1,
        mlp_ratio=4.0,
        output_dim=64,
        act_layer=QuickGELU,
    )
    path = tmp_path / "clip.pt"
    torch.save({f"visual.{k}": v for k, v in tower.state_dict().items()}, path)
    return path

"""The perceptual loss: VGG features where they are, one line where they are not."""

import pytest
import torch

from georsr.errors import ModelError
from georsr.training.losses import ImageLoss, VggFeatures
from georsr.training.recipe import LossSettings

models = pytest.importorskip("torchvision.models")


def test_vgg_features_are_frozen(monkeypatch):
    real = models.vgg19
    monkeypatch.setattr(models, "vgg19", lambda **_: real(weights=None))
    torch.manual_seed(0)
    features = VggFeatures().train()
    assert not any(p.requires_grad for p in features.parameters())
    assert not features.layers.training
    hr = torch.rand(1, 3, 32, 32)
    sr = (hr + 0.1 * torch.rand(1, 3, 32, 32)).requires_grad_()
    # conv5_4 is the last layer: sixteen times smaller, 512 channels, before its ReLU
    assert features(hr).shape == (1, 512, 2, 2)
    assert features(hr).min() < 0
    loss = ImageLoss(LossSettings(absolute=0.0, perceptual=2.0), features=features)
    expected = 2 * (features(sr.detach()) - features(hr)).abs().mean()
    value = loss(sr, hr, None, 0.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert sr.grad.abs().sum() > 0
    assert loss(hr, hr, None, 0.0).item() == 0


def test_vgg_features_offline_names_the_download(monkeypatch):
    def offline(**_):
        raise OSError("no route\nto host")

    monkeypatch.setattr(models, "vgg19", offline)
    with pytest.raises(ModelError, match=r"download https://\S+vgg19\S+ into .*perceptual: 0") as e:
        VggFeatures()
    assert "\n" not in str(e.value)

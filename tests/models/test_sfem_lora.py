import copy

import pytest
import torch

from georsr.models.sfem import add_lora, merge_lora
from tests.models.conftest import small

pytest.importorskip("peft")


def test_add_lora_starts_neutral_trains_alone_and_merges():
    network = small().eval()
    plain = copy.deepcopy(network)
    names = set(network.state_dict())
    x = torch.rand(1, 3, 16, 16)
    add_lora(network.encoder, rank=4, alpha=8, dropout=0.0)
    trained = {k for k, p in network.encoder.named_parameters() if p.requires_grad}
    # One pair for each of qkv, c_fc and c_proj of the only block.
    assert len(trained) == 6
    assert all("lora" in k for k in trained)
    with torch.no_grad():
        assert torch.allclose(network(x), plain(x), atol=1e-6)
    optimiser = torch.optim.SGD(
        [p for p in network.encoder.parameters() if p.requires_grad], lr=0.1
    )
    for _ in range(2):
        optimiser.zero_grad()
        (network(x) * torch.randn(1, 3, 32, 32)).sum().backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.any() for p in optimiser.param_groups[0]["params"])
    with torch.no_grad():
        adapted = network(x)
        merge_lora(network.encoder)
        assert set(network.state_dict()) == names
        assert torch.allclose(network(x), adapted, atol=1e-4)
        assert not torch.allclose(plain.encoder(x)[0], network.encoder(x)[0], atol=1e-4)

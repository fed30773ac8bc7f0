import pytest
import torch
import torch.nn.functional as F

from georsr.models.hat import (
    OverlapAttention,
    OverlapPositionBias,
    WindowAttention,
    make_partition,
    split_axis,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(("shift", "expected"), [(0, [16, 16, 16]), (8, [8, 16, 16, 8])])
def test_split_axis_shift_gives_smaller_windows_at_the_border(shift, expected):
    assert [size for _, size in split_axis(48, 16, shift)] == expected


@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
@pytest.mark.parametrize("shift", [0, 8])
def test_make_partition_is_a_permutation_of_the_pixels(size, shift):
    partition = make_partition(2, *size, 16, shift, CPU)
    count = 2 * size[0] * size[1]
    assert torch.equal(partition.order[partition.inverse], torch.arange(count))
    assert sum(s.count * s.area for s in partition.sizes) == count


def reference(attention, x, shift):
    """Swin's own recipe: roll, cut, mask what does not belong together, roll back."""
    n, h, w, c = x.shape
    side, heads = attention.window_size, attention.num_heads
    regions = torch.zeros(h, w)
    for i, rows in enumerate((slice(0, -side), slice(-side, -shift), slice(-shift, None))):
        for j, columns in enumerate((slice(0, -side), slice(-side, -shift), slice(-shift, None))):
            regions[rows, columns] = 3 * i + j

    def windows(t):
        t = t.view(len(t), h // side, side, w // side, side, -1).transpose(2, 3)
        return t.reshape(-1, side * side, t.shape[-1])

    ids = windows(regions[None, ..., None])[..., 0]
    mask = torch.where(ids[:, :, None] == ids[:, None, :], 0.0, -100.0).repeat(n, 1, 1)
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    place = place.flatten(1)
    delta = place[:, :, None] - place[:, None, :] + side - 1
    table = attention.relative_position_bias.table
    bias = table[delta[0] * (2 * side - 1) + delta[1]].permute(2, 0, 1)
    tokens = windows(torch.roll(x, (-shift, -shift), (1, 2)))
    qkv = F.linear(tokens, attention.qkv.weight, attention.qkv.bias)
    q, k, v = qkv.view(len(tokens), -1, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-1, -2) * (c // heads) ** -0.5 + bias + mask[:, None]
    out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(tokens.shape)
    out = F.linear(out, attention.proj.weight, attention.proj.bias)
    out = out.view(n, h // side, w // side, side, side, c).transpose(2, 3).reshape(n, h, w, c)
    return torch.roll(out, (shift, shift), (1, 2))


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
def test_window_attention_equals_rolled_and_masked_windows(size):
    torch.manual_seed(1)
    attention = WindowAttention(60, 2, 16, 8).eval()
    attention.relative_position_bias.table.normal_()
    x = torch.randn(2, *size, 60)
    assert torch.allclose(attention(x), reference(attention, x, 8), atol=1e-5)


@torch.no_grad()
def test_overlap_attention_sees_neighbours_and_zeros_outside():
    torch.manual_seed(1)
    attention = OverlapAttention(60, 2, 16).eval()
    attention.relative_position_bias.table.normal_()
    x = torch.randn(1, 32, 32, 60)
    qkv = F.linear(x, attention.qkv.weight, attention.qkv.bias)[0]
    padded = F.pad(qkv, (0, 0, 4, 4, 4, 4))
    q, (k, v) = qkv[:16, 16:, :60], padded[:24, 16:40, 60:].split(60, -1)
    bias = attention.relative_position_bias(16, 16, x.dtype)[0]
    q, k, v = (t.reshape(-1, 2, 30).transpose(0, 1) for t in (q, k, v))
    out = (q @ k.transpose(1, 2) * 30**-0.5 + bias).softmax(-1) @ v
    out = F.linear(out.transpose(0, 1).flatten(1), attention.proj.weight, attention.proj.bias)
    assert torch.allclose(attention(x)[0, :16, 16:], out.view(16, 16, 60), atol=1e-5)


def test_overlap_position_bias_uses_every_row_of_the_table():
    index = OverlapPositionBias(16, 24, num_heads=1).index(16, 16)
    assert index.shape == (256, 576)
    assert len(index.unique()) == 39 * 39

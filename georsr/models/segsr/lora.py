"""LoRA for CLIP: a few trainable directions beside its frozen weights (arXiv 2106.09685).

Needs PEFT, part of the ``train`` extra; running a trained network does not.
"""

from __future__ import annotations

from georsr.errors import UsageError
from georsr.models.segsr.encoder import ClipEncoder

TARGETS = ("qkv", "c_fc", "c_proj")
"""The linear layers SeG-SR adapts."""


def add_lora(
    encoder: ClipEncoder, rank: int = 32, alpha: int = 32, dropout: float = 0.05
) -> ClipEncoder:
    """Freeze an encoder and put LoRA beside its linear layers, in place.

    Parameters
    ----------
    encoder
        Encoder to adapt; it starts out computing exactly what it did.
    rank, alpha, dropout
        LoRA's; the update is weighted by alpha / rank.

    Returns
    -------
    ClipEncoder
        The same object; only LoRA's parameters want gradients.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError("LoRA needs the package peft: pip install 'georsr[train]'") from error
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(TARGETS),
        bias="none",
    )
    encoder.requires_grad_(False)
    inject_adapter_in_model(config, encoder)
    return encoder


def merge_lora(encoder: ClipEncoder) -> ClipEncoder:
    """Add LoRA's updates to the weights and remove it, in place: for inference and for saving."""
    from peft.tuners.lora import LoraLayer

    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge(safe_merge=True)
                setattr(parent, name, child.get_base_layer())
    return encoder

"""DINOv2's ViT-S/14 without LayerScale, which its weights have folded in, as torchvision's VisionTransformer."""

from __future__ import annotations

from torch import nn


def vit_s14(num_classes: int) -> nn.Module:
    """Return the network: images (N, 3, 224, 224) -> logits (N, num_classes), by a class token and 16 x 16 patches."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(224, 14, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536, num_classes=num_classes)

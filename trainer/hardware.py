"""How much of the device a run uses: floating-point operations it needs over those the device could do."""

from __future__ import annotations

import re

import torch

from trainer.config import ModelShape
from trainer.layer_order import layer_order
from trainer.value_embeddings import GATE_CHANNELS, embedded_layers
from trainer.windows import layer_windows

# Dense bf16 tensor-core peaks in FLOP/s, from NVIDIA's data sheets (those with sparsity halved). The first whose words
# are in the device's name counts, so names with more words come first.
PEAK_BF16 = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A40": 150e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak in FLOP/s; None where the table has none (CPUs among them)."""
    if device.type != "cuda":
        return None
    return peak_by_name(torch.cuda.get_device_name(device))


def peak_by_name(name: str) -> float | None:
    """``peak_flops`` by the name that CUDA gives a device, such as "NVIDIA H100 80GB HBM3"."""
    return next((peak for known, peak in PEAK_BF16.items() if re.search(rf"\b{known}\b", name)), None)


def flops_per_token(shape: ModelShape, length: int, repeating: bool = True) -> int:
    """FLOPs of forward and backward per token: 6 per weight of a product, 12·dim·length for attention in each layer.

    As in Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, appendix B): recomputation is not counted, attention is counted
    whole although half of it is masked, and embeddings are lookups. Where a window is shorter than the row, it
    takes the row's place. A layer that runs again, while ``repeating``, counts again.
    """
    windows, order, embedded = layer_windows(shape), layer_order(shape, repeating), embedded_layers(shape)
    reach = sum(min(length, windows[layer] or length) for layer in order)
    attention = 2 * shape.dim * shape.dim + 2 * shape.dim * shape.kv_heads * shape.head_dim
    block = attention + 3 * shape.dim * shape.ffn
    gates = sum(layer in embedded for layer in order) * shape.kv_heads * min(GATE_CHANNELS, shape.dim)
    weights = len(order) * block + gates + shape.vocab_size * shape.dim
    return 6 * weights + 12 * shape.dim * reach


def mean_flops_per_token(shape: ModelShape, length: int, once: float) -> int:
    """``flops_per_token`` in the mean of a run whose layers repeat after the share ``once`` of its updates."""
    plain, repeating = (flops_per_token(shape, length, repeats) for repeats in (False, True))
    return plain if plain == repeating else round(once * plain + (1 - once) * repeating)

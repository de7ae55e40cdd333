"""MFU's two halves: the operations a token needs and the peak it is held against."""

import pytest
import torch

from trainer.config import ModelConfig
from trainer.hardware import flops_per_token, peak_by_name, peak_flops
from trainer.model import Llama, count_parameters


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_peak_by_the_device_s_name(name: str, teraflops: int | None) -> None:
    assert peak_by_name(name) == (teraflops * 1e12 if teraflops else None)


def test_a_cpu_has_no_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize("overrides", [{}, {"kv_heads": 1, "ffn": 100}, {"tied": True}])
def test_six_flops_for_each_weight_of_a_product(overrides: dict) -> None:
    """Without attention's own term it is 6 · (parameters - gains - embedding, which is a lookup)."""
    shape = ModelConfig.model_validate({"depth": 2, "dim": 64, "heads": 4, **overrides}).shape(300)
    model = Llama(shape, 0)
    gains = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 1)
    lookup = 0 if shape.tied else 300 * 64
    assert flops_per_token(shape, 0) == 6 * (count_parameters(model) - gains - lookup)
    assert flops_per_token(shape, 128) - flops_per_token(shape, 0) == 12 * 2 * 64 * 128

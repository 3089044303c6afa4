"""Which numbers a run computes with, and that a process is left as it was."""

from __future__ import annotations

import pytest
import torch

from wordmill.core import device
from wordmill.core.device import choose_dtype, choose_numbers, crawls, products
from wordmill.core.errors import UsageError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("gain", "mixed", "whole", "expected"),
    [(1.0, 1.0, True, "fp32"), (3.0, 0.5, True, "mixed"), (3.0, 0.5, False, "bf16"), (3.0, 0.2, True, "bf16")],
)
def test_a_cpu_tunes_with_the_numbers_that_pay(monkeypatch, gain, mixed, whole, expected):
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    monkeypatch.setattr(device, "bf16_gain", lambda: gain)
    monkeypatch.setattr(device, "mixed_gain", lambda: mixed)
    assert choose_numbers("auto", CPU, whole=whole) == expected
    assert choose_numbers("auto", GPU, whole=whole) == "bf16"
    for asked in ("bf16", "mixed", "fp32"):
        assert choose_numbers(asked, CPU, whole=whole) == asked


def test_unknown_numbers_are_refused():
    with pytest.raises(UsageError, match="unknown dtype 'fp8'"):
        choose_numbers("fp8", CPU, whole=True)
    with pytest.raises(UsageError, match="mixed numbers are for fine-tuning alone"):
        choose_dtype("mixed", CPU)


@pytest.mark.parametrize(
    ("numbers", "dtype", "on_cpu", "on_gpu"),
    [
        ("bf16", torch.bfloat16, "highest", "highest"),
        ("mixed", torch.float32, "medium", "high"),
        ("fp32", torch.float32, "highest", "highest"),
    ],
)
def test_products_are_as_asked_and_then_as_before(monkeypatch, numbers, dtype, on_cpu, on_gpu):
    monkeypatch.setattr(device, "tune_float32", lambda: False)
    torch.set_float32_matmul_precision("highest")
    for place, expected in ((CPU, on_cpu), (GPU, on_gpu)):
        with products(numbers, place) as given:
            assert given == dtype
            assert torch.get_float32_matmul_precision() == expected
        assert torch.get_float32_matmul_precision() == "highest"


def test_float32_products_that_are_as_exact_and_faster_stay(monkeypatch):
    def tuned() -> bool:
        torch.set_float32_matmul_precision("medium")
        return True

    monkeypatch.setattr(device, "tune_float32", tuned)
    torch.set_float32_matmul_precision("highest")
    try:
        with products("fp32", CPU):
            pass
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_cpu_without_bfloat16_never_multiplies_in_it(monkeypatch):
    """It would take a second a product: twelve of each run's seconds."""
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    monkeypatch.setattr(device, "tune_float32", lambda: False)
    multiplied, mm = [], torch.mm

    def product(a, *rest, **named):
        multiplied.append(a.dtype)
        return mm(a, *rest, **named)

    monkeypatch.setattr(torch, "mm", product)
    speeds = device.product_speeds.__wrapped__()
    monkeypatch.setattr(device, "product_speeds", lambda: speeds)
    assert set(multiplied) == {torch.float32} and set(speeds) == {"fp32", "fp32 fast"}
    assert choose_dtype("auto", CPU) == torch.float32 and choose_numbers("auto", CPU, whole=True) == "fp32"


def test_numbers_that_a_cpu_is_slow_with_are_told(monkeypatch):
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    assert "no instructions for bfloat16" in str(crawls("bf16", CPU))
    assert [crawls(numbers, place) for numbers, place in (("fp32", CPU), ("auto", CPU), ("mixed", CPU), ("bf16", GPU))] == [None] * 4
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    assert crawls("bf16", CPU) is None

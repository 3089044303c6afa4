from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from wordmill.core import measure
from wordmill.core.measure import (
    Rates,
    describe_machine,
    fast_float32,
    float32_error,
    matmul_rate,
    measure_rates,
    memory_rates,
    relative_error,
)

CPU = torch.device("cpu")


def test_the_machine():
    machine = describe_machine()
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert 0 < machine.memory_free <= machine.memory
    assert machine.disk_free > 0


def test_a_container_with_half_a_core_and_little_memory_counts(monkeypatch):
    real = Path.read_text
    limits = {"/sys/fs/cgroup/cpu.max": "50000 100000", "/sys/fs/cgroup/memory.max": "1000", "/sys/fs/cgroup/memory.current": "400"}
    monkeypatch.setattr(Path, "read_text", lambda self, *args, **kw: limits.get(str(self)) or real(self, *args, **kw))
    machine = describe_machine()
    assert machine.cores == 1
    assert (machine.memory, machine.memory_free) == (1000, 600)


def test_rates_are_positive(monkeypatch):
    monkeypatch.setattr(measure, "SECONDS_PER_RATE", 0.0)
    monkeypatch.setattr(measure, "MATMUL_CPU", (64, 64, 64))
    assert matmul_rate(CPU, torch.float32) > 0
    assert min(memory_rates(CPU)) > 0


def test_float32_is_exact_unless_asked():
    assert float32_error(CPU) < 1e-6
    before = torch.get_float32_matmul_precision()
    with fast_float32(CPU):
        assert float32_error(CPU) < 0.01
    assert torch.get_float32_matmul_precision() == before


def test_relative_error():
    truth = torch.tensor([3.0, 4.0])
    assert relative_error(truth + torch.tensor([0.0, 0.5]), truth) == pytest.approx(0.1)
    assert relative_error(torch.tensor([1.0, float("nan")]), truth) == float("inf")


def test_bf16_gain():
    assert Rates("cpu", {"fp32": 50.0, "fp32 fast": 100.0, "bf16": 150.0}, 1e-6, 10.0, 10.0).bf16_gain == 3
    assert Rates("cuda", {"fp32": 50.0, "fp32 fast": 100.0}, 1e-6, 10.0, 10.0).bf16_gain == 0


def test_without_instructions_for_bfloat16_none_is_measured(monkeypatch):
    """A product of the size measured takes ten seconds there, and was repeated four times."""
    measured = []
    monkeypatch.setattr(measure, "has_bf16", lambda _: False)
    monkeypatch.setattr(measure, "matmul_rate", lambda _, dtype: measured.append(dtype) or 1.0)
    monkeypatch.setattr(measure, "memory_rates", lambda _: (1.0, 1.0))
    rates = measure_rates(torch.device("cpu"))
    assert set(measured) == {torch.float32} and rates.bf16_gain == 0

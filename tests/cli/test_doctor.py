"""What `wordmill doctor` says will be used."""

from __future__ import annotations

import pytest
import torch

from wordmill.cli.doctor import choose
from wordmill.core.measure import Rates, describe_machine

CPU = torch.device("cpu")


@pytest.mark.parametrize(("gain", "mixed", "expected"), [(3.0, 0.5, True), (3.0, 0.1, False), (1.0, 0.5, False)])
def test_mixed_numbers_are_told_where_they_serve(monkeypatch, gain, mixed, expected):
    monkeypatch.setattr("wordmill.core.device.has_bf16", lambda _: True)
    monkeypatch.setattr("wordmill.core.device.bf16_gain", lambda: gain)
    monkeypatch.setattr("wordmill.core.device.mixed_gain", lambda: mixed)
    rates = Rates("cpu", {"fp32": 50.0, "fp32 fast": 100.0, "bf16": 150.0}, 2e-3, 10.0, 10.0)
    told = choose(CPU, describe_machine(), rates)["dtype"]
    assert told.startswith("bf16: " if gain > 1 else "fp32: ")
    assert ("fine-tuned in mixed numbers" in told) == expected

"""A device, a driver or a library version computes something else without an error, and the model only gets a little worse.
`wordmill doctor` runs each kernel, forward and backward, against float64 on the CPU and says what it found.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

from wordmill.cli.app import main
from wordmill.core import measure
from wordmill.models import checks
from wordmill.models.checks import check_kernel, check_kernels

CPU = torch.device("cpu")


def test_every_kernel_is_right_here():
    assert [check for check in check_kernels(CPU) if not check.ok] == []


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_kernel_that_is_slightly_off_is_found(dtype):
    def off(x):
        # What a miscompiled kernel does: right in float64, a few elements wrong in the fast dtype.
        return F.silu(x) if x.dtype == torch.float64 else F.silu(x) + torch.where(torch.arange(x.shape[-1]) == 3, 0.5, 0.0).to(x)

    assert not check_kernel("silu", off, [torch.randn(67, 96)], CPU, dtype).ok


def test_a_wrong_gradient_is_found():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * x * (2.0 if x.dtype == torch.float64 else 1.9)

    check = check_kernel("square", Wrong.apply, [torch.randn(16)], CPU, "fp32")
    assert check.forward < 1e-6
    assert not check.ok


def test_a_kernel_that_does_not_run_is_a_finding():
    def missing(x):
        if x.dtype != torch.float64:
            raise NotImplementedError("no such kernel\nlong trace")
        return x

    check = check_kernel("missing", missing, [torch.randn(4)], CPU, "fp32")
    assert check.problem == "no such kernel"
    assert not check.ok


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(measure, "SECONDS_PER_RATE", 0.0)
    monkeypatch.setattr(measure, "MATMUL_CPU", (64, 64, 64))


@pytest.mark.usefixtures("quick")
def test_doctor_reports(capsys):
    assert main(["doctor", "--device", "cpu", "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["machine"]["cores"] >= 1
    assert {row["name"] for row in report["kernels"]} >= {"matrix product", "attention", "rms_norm", "cross-entropy", "embedding"}
    assert report["will_use"]["dtype"]


@pytest.mark.usefixtures("quick")
def test_doctor_says_what_is_wrong_and_exits_with_1(capsys, monkeypatch):
    bad = checks.KernelCheck("attention", "bf16", 0.3, 0.1)
    monkeypatch.setattr(checks, "check_kernels", lambda *_: [bad])
    assert main(["doctor", "--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert "Don't train here: attention (bf16)" in out


def test_doctor_on_a_device_that_is_not_there(capsys):
    assert main(["doctor", "--device", "cuda:77"]) == 2
    assert capsys.readouterr().err.startswith("error: --device: there is no 'cuda:77' on this machine")

"""A GPU that is only pretended: tensors that say they lie on `cuda:0`, computed on the CPU, and as picky as the real thing.

Code for a GPU fails, on machines without one, only where nobody looks: a mask that was made on the CPU, an index that stayed there, a
`.numpy()` too early, a kernel that was given an address. Here a tensor on the device `cuda` is a subclass that says so; whatever mixes
it with the CPU's (but for what CUDA allows: single numbers, indices, copies) raises `RuntimeError`, as it would there. Speed, memory and
rounding are the CPU's, and what backward passes do inside is not looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from wordmill.models import kernels

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
MIXED = {"copy_", "to", "type_as", "__getitem__", "__setitem__", "index_put", "index_put_", "__get__", "__set__"}
"""Functions that take tensors of both kinds."""
SAYS = [(Tensor.device.__get__, GPU), (Tensor.is_cuda.__get__, True), (Tensor.is_cpu.__get__, False)]  # type: ignore[attr-defined]
"""What such a tensor says of itself."""
REFUSED = {"numpy", "__array__", "from_numpy"}
"""Functions that a tensor on a GPU lacks."""


class OnGpu(Tensor):
    """A tensor that says it lies on a GPU."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Everywhere(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One call: the CPU's result, on the pretended GPU where it would be there."""
    if func is torch.device:
        with torch._C.DisableTorchFunction():
            return func(*args, **kwargs)
    name = getattr(func, "__name__", str(func))
    flat, spec = tree_flatten((args, kwargs))
    ours = [x for x in flat if isinstance(x, OnGpu)]
    if name == "__get__" and (said := next((value for getter, value in SAYS if func == getter), None)) is not None:
        return said if ours else func.__self__.__get__(*args, **kwargs)
    if ours and name in REFUSED:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
    here = bool(ours)
    if name == "cpu":
        here = False
    elif name == "cuda":
        here, args, kwargs = True, args[:1], {}
        flat, spec = tree_flatten((args, kwargs))
    elif name in ("copy_", "__setitem__"):
        here = isinstance(args[0], OnGpu)
    elif name == "type_as":
        here = isinstance(args[1], OnGpu)
    for n, x in enumerate(flat):
        device = _device(x)
        if device is not None:
            here = device == "cuda"
            flat[n] = CPU
    if ours and name not in MIXED:
        for x in flat:
            if isinstance(x, Tensor) and not isinstance(x, OnGpu) and x.dim():
                raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cuda:0 and cpu")
    args, kwargs = tree_unflatten(flat, spec)
    if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
        here = isinstance(args[1], OnGpu)
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    with torch._C.DisableTorchFunction():
        found = func(*args, **kwargs)
        if name in ("cpu", "cuda", "to") and bool(ours) != here and found.data_ptr() == args[0].data_ptr():
            found = found.clone()  # from one device to the other is always a copy
    if isinstance(found, Tensor):
        return _placed(found, here)
    if isinstance(found, tuple | list) and not isinstance(found, torch.Size):
        return tree_map(lambda x: _placed(x, here) if isinstance(x, Tensor) else x, found)
    return found


def _placed(x: Tensor, here: bool) -> Tensor:
    if isinstance(x, OnGpu) == here:
        return x
    with torch._C.DisableTorchFunction():
        return x.as_subclass(OnGpu if here else Tensor)


def _device(x: Any) -> str | None:
    """The kind of device that an argument names: cpu or cuda."""
    if isinstance(x, torch.device):
        return x.type
    return x.partition(":")[0] if isinstance(x, str) and x.partition(":")[0] in ("cpu", "cuda") else None


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """A machine with one GPU, as far as torch tells."""
    with pytest.MonkeyPatch.context() as patch:
        for function, value in {
            "is_available": True, "device_count": 1, "current_device": 0, "synchronize": None, "empty_cache": None, "set_device": None,
            "is_bf16_supported": True, "mem_get_info": (70 * 2**30, 80 * 2**30), "max_memory_allocated": 2**30, "memory_allocated": 2**30,
            "max_memory_reserved": 2**30, "reset_peak_memory_stats": None, "manual_seed_all": None, "get_device_name": "pretended",
            "get_device_properties": SimpleNamespace(name="pretended", major=9, minor=0, total_memory=80 * 2**30),
        }.items():  # fmt: skip
            patch.setattr(torch.cuda, function, functools.partial(lambda value, *_, **__: value, value))
        patch.setattr(torch.nn.Module, "to", functools.partialmethod(_moved, torch.nn.Module.to))
        patch.setattr(kernels, "_call", functools.partial(_called, kernels._call))
        with _Everywhere():
            yield


def _called(real: Any, name: str, *arguments: Any) -> None:
    """A kernel of the CPU's."""
    assert not any(isinstance(x, OnGpu) for x in arguments), f"{name} was given the address of a GPU's tensor"
    real(name, *arguments)


def _moved(module: torch.nn.Module, real: Any, *args: Any, **kwargs: Any) -> torch.nn.Module:
    """`Module.to`: parameters and buffers become a GPU's, or no longer are."""
    wanted = next((kind for x in (*args, *kwargs.values()) if (kind := _device(x)) is not None), None)
    args = tuple(x for x in args if _device(x) is None)
    kwargs = {name: x for name, x in kwargs.items() if _device(x) is None}
    if args or kwargs:
        real(module, *args, **kwargs)
    done: dict[int, Tensor] = {}
    for part in module.modules() if wanted is not None else ():
        for held in (part._parameters, part._buffers):
            for name, x in held.items():
                if x is not None and isinstance(x, OnGpu) != (wanted == "cuda"):
                    if id(x) not in done:
                        new = x.detach().to(wanted)
                        done[id(x)] = torch.nn.Parameter(new, x.requires_grad) if held is part._parameters else new
                    held[name] = done[id(x)]  # type: ignore[assignment]
    return module

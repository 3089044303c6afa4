"""Which OpenMP runtime compiled code joins: torch's, whatever else is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from wordmill.core.native import Refusal, own_runtime

PACKAGES = Path("/env/site-packages")
TORCH, OTHER, SYSTEM = PACKAGES / "torch/lib/libgomp.so.1", PACKAGES / "sklearn.libs/libgomp-1.so", Path("/usr/lib/libgomp.so.1")


@pytest.mark.parametrize(("found", "own"), [([TORCH], TORCH), ([OTHER, TORCH], TORCH), ([OTHER, SYSTEM], SYSTEM), ([SYSTEM, TORCH], TORCH)])
def test_torch_s_own_runtime_is_found_among_others(found: list[Path], own: Path) -> None:
    assert own_runtime(found, PACKAGES) == own


@pytest.mark.parametrize("found", [[], [OTHER], [SYSTEM, Path("/opt/libgomp.so.1")]])
def test_none_or_several_are_refused(found: list[Path]) -> None:
    with pytest.raises(Refusal, match="libgomp"):
        own_runtime(found, PACKAGES)

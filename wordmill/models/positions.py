"""How a model knows where a token stands: fixed sines, rotary angles (with their scalings), and ranges of distances.

Shapes: B batch, T queries, S keys, D width, K head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wordmill.models.config import RotaryScaling, TransformerConfig


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """The fixed positions of 2017 (arXiv 1706.03762, section 3.5): sines in the even places, cosines in the odd. (B, T) → (B, T, D)."""
    rates = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(10_000.0) / width))
    angles = positions.clamp(min=0)[..., None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :width]


def rotary_rates(config: TransformerConfig, *, local: bool, dtype: torch.dtype, device: torch.device | str = "cpu") -> tuple[Tensor, float]:
    """Radians a position for each pair of entries that turns, (K/2,), and the factor on cosines and sines.

    `local` asks for the layers with a window, which may have a base of their own.
    """
    turned = int(config.head_size * config.rope_share)
    exponents = torch.arange(0, turned, 2, dtype=dtype, device=device) / turned
    if local and config.rope_local_theta is not None:
        return 1.0 / config.rope_local_theta**exponents, 1.0
    scaling = config.rope_scaling
    if scaling is None:
        return 1.0 / config.rope_theta**exponents, 1.0
    if scaling.kind == "ntk":
        return 1.0 / ntk_theta(config, scaling) ** exponents, 1.0
    rates = 1.0 / config.rope_theta**exponents
    if scaling.kind == "linear":
        return rates / scaling.factor, 1.0
    if scaling.kind == "llama3":
        turns = scaling.first_context * rates / (2 * math.pi)
        kept = ((turns - scaling.slow) / (scaling.fast - scaling.slow)).clamp(0, 1)
        return rates * kept + rates / scaling.factor * (1 - kept), 1.0
    factor = scaling.attention if scaling.attention is not None else 0.1 * math.log(max(scaling.factor, 1.0)) + 1.0
    return _yarn(rates, config.rope_theta, turned, scaling), factor


def ntk_theta(config: TransformerConfig, scaling: RotaryScaling) -> float:
    """The base whose slowest frequency is stretched by `factor` while the fastest stays."""
    turned = int(config.head_size * config.rope_share)
    return float(config.rope_theta * scaling.factor ** (turned / max(turned - 2, 1)))


def _yarn(rates: Tensor, theta: float, turned: int, scaling: RotaryScaling) -> Tensor:
    """YaRN (arXiv 2309.00071, section 3.2): frequencies above one border stay, below the other are stretched, a ramp between.
    The ramp is linear in the frequency's number, not in its turns."""

    def number(turns: float) -> float:  # of the frequency that turns so often within the first context
        return turned * math.log(scaling.first_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = number(scaling.fast), number(scaling.slow)
    if scaling.round_borders:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    places = torch.arange(len(rates), dtype=rates.dtype, device=rates.device)
    stretched = ((places - low) / (high - low if high != low else 0.001)).clamp(0, 1)
    return rates / scaling.factor * stretched + rates * (1 - stretched)


def distance_buckets(distances: Tensor, config: TransformerConfig) -> Tensor:
    """The range that each distance (key's place − query's place) falls into (arXiv 1910.10683, section 2.1).

    Half of the ranges are single distances, the other half grow by a constant factor up to `relative_distance`. An
    encoder spends half of all ranges on keys behind the query; a decoder never sees those.
    """
    count, behind = config.relative_buckets, torch.zeros_like(distances)
    if config.causal:
        apart = (-distances).clamp(min=0)
    else:
        count //= 2
        behind, apart = (distances > 0).long() * count, distances.abs()
    single = count // 2
    # In float32 and in this order, as those who trained the models did: a distance on a border must fall on the same side.
    share = torch.log(apart.clamp(min=1).float() / single) / math.log(config.relative_distance / single)
    wide = single + (share * (count - single)).long()
    return behind + torch.where(apart < single, apart, wide.clamp(max=count - 1))

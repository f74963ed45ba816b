"""Enhancers by name, and the key that tells one from another."""

import hashlib

from torch import nn

from pipeline.enhancers.gamma import Gamma
from pipeline.enhancers.histogram import Histogram
from pipeline.enhancers.lime import Lime
from pipeline.enhancers.retinex import Retinex
from pipeline.enhancers.zero_dce import ZeroDCE

NAMES = ("zero_dce", "gamma", "histogram", "lime", "retinex", "none")


class NoEnhancer(nn.Identity):
    """Gives its input back: the control without any light."""


def build_enhancer(name: str, *, gamma: float = 1.8, gamma_table: bool = False, seed: int = 0) -> nn.Module:
    """Build an enhancer on the CPU: float32 (N, 3, H, W) RGB in [0, 1] -> the same shape, range, device and dtype.

    Only zero_dce has weights; its first ones brighten nothing, so load or train some. histogram, lime and retinex
    work on the CPU, frame by frame, wherever the frames are, and let no gradient through.

    Args:
        name: one of `NAMES`.
        gamma: of gamma, above 0; above 1 brightens.
        gamma_table: of gamma: DarkLight's table of 8-bit codes instead of exact values.
        seed: of zero_dce's first weights.

    Raises:
        ValueError: the name is unknown, or gamma is not above 0.
    """
    if name == "zero_dce":
        return ZeroDCE(seed=seed)
    if name == "gamma":
        return Gamma(gamma=gamma, table=gamma_table)
    if name == "histogram":
        return Histogram()
    if name == "lime":
        return Lime()
    if name == "retinex":
        return Retinex()
    if name == "none":
        return NoEnhancer()
    raise ValueError(f"enhancer.name: unknown name {name!r}; known names are {', '.join(NAMES)}")


def enhancer_key(enhancer: nn.Module) -> str:
    """One hash of an enhancer's kind, settings and weights, in hexadecimal, for keys of what was made with it.

    The settings are what the module's `extra_repr` tells.
    """
    digest = hashlib.sha256(f"{type(enhancer).__name__}({enhancer.extra_repr()})".encode())
    tensors = enhancer.state_dict()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

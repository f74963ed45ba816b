"""The physical dark model: what a camera would have filmed with less light.

Linear light, exposure, shot noise, read noise, row noise, fixed pattern, quantisation, tone curve. One
parameter set holds for a whole clip. Read noise follows shot noise as in Brooks et al. 2019 (Unprocessing
Images for Learned Raw Denoising).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.video import Frames

Codes = NDArray[np.uint16]

# Shot variance at full scale, inside the range that Brooks et al. measured over cameras (1e-4 to 1.2e-2).
SHOT_GAIN_RANGE = (2e-4, 2e-3)

# log(read variance) = 2.18 log(shot gain) + 1.20, with a spread of 0.26 (Brooks et al. 2019).
READ_SLOPE, READ_OFFSET, READ_SPREAD = 2.18, 1.20, 0.26

# A change here or in a draw gives other pixels: darkened folders of another version are refused.
MODEL_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class LowLight:
    """Light and camera of one clip. Linear light is 1.0 where the sensor saturates at 0 EV."""

    exposure_ev: float
    """Stops of light added to the lit clip; -5 leaves 1/32 of it."""
    shot_gain: float
    """Shot-noise variance per unit of linear signal: one electron's share of full scale. 0 turns it off."""
    read_std: float
    """Standard deviation of the read noise, a draw a pixel a frame; share of full scale."""
    row_std: float
    """Standard deviation of the row noise, a draw a row a frame; share of full scale."""
    pattern_std: float
    """Standard deviation of the fixed pattern, a draw a pixel a clip; share of full scale."""
    adc_bits: int
    """Bits of the converter, 8 to 16."""
    black_level: float
    """Code of no light, as a share of the code range, so that noise below black survives the converter."""
    white_balance: tuple[float, float, float]
    """Gains of R, G, B after the converter, >= 1. The sensor sees 1/gain: a weak channel is a noisy one."""
    toe: float
    """Exponent on the sRGB-coded value, >= 1: how much the tone curve crushes shadows."""

    def __post_init__(self) -> None:
        """Refuse values that no camera has."""
        stds = (self.shot_gain, self.read_std, self.row_std, self.pattern_std)
        if not math.isfinite(self.exposure_ev) or not all(math.isfinite(std) and std >= 0 for std in stds):
            raise ValueError(f"low light: {self} has a noise below 0 or no number; use finite values >= 0")
        if not 8 <= self.adc_bits <= 16 or not 0 <= self.black_level < 1:
            raise ValueError(
                f"low light: adc_bits is {self.adc_bits} and black_level {self.black_level}; "
                "use 8 to 16 bits and a level in [0, 1)"
            )
        if min(self.white_balance) < 1 or self.toe < 1:
            raise ValueError(f"low light: white_balance is {self.white_balance} and toe {self.toe}; use values >= 1")


def draw_low_light(rng: np.random.Generator, exposure_ev: float) -> LowLight:
    """Draw the camera of one clip.

    Args:
        rng: where the draw comes from; the same state gives the same camera.
        exposure_ev: stops of light added to the lit clip, below 0 for darker.
    """
    low, high = np.log(SHOT_GAIN_RANGE)
    log_shot = rng.uniform(low, high)
    read_std = math.exp(0.5 * (READ_SLOPE * log_shot + READ_OFFSET + READ_SPREAD * rng.standard_normal()))
    return LowLight(
        exposure_ev=float(exposure_ev),
        shot_gain=math.exp(log_shot),
        read_std=read_std,
        row_std=read_std * rng.uniform(0.1, 0.3),
        pattern_std=read_std * rng.uniform(0.2, 0.6),
        adc_bits=int(rng.choice((10, 12))),
        black_level=1 / 16,
        white_balance=(rng.uniform(1.4, 2.1), 1.0, rng.uniform(1.4, 2.1)),
        toe=rng.uniform(1.0, 1.1),
    )


def darken(frames: Frames, low_light: LowLight, rng: np.random.Generator) -> Frames:
    """Film a lit clip again with less light.

    Args:
        frames: uint8 (T, H, W, 3), sRGB-coded.
        low_light: light and camera, for all frames.
        rng: where the noise comes from; the same state gives the same pixels.

    Returns:
        uint8 (T, H, W, 3), sRGB-coded.
    """
    return develop(expose(frames, low_light, rng), low_light)


def expose(frames: Frames, low_light: LowLight, rng: np.random.Generator) -> Codes:
    """Give the sensor's codes for a lit clip.

    With signal s = linear light * 2^EV / white balance, the value before the converter is
    shot_gain * Poisson(s / shot_gain) + read + row + pattern: its variance over time is
    shot_gain * s + read_std^2 + row_std^2.

    Args:
        frames: uint8 (T, H, W, 3), sRGB-coded.
        low_light: light and camera, for all frames.
        rng: where the noise comes from.

    Returns:
        uint16 (T, H, W, 3), 0 to 2^adc_bits - 1, black at black_level of that range.

    Raises:
        ValueError: frames of another shape or type.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames to darken are {frames.dtype} {frames.shape}, wanted uint8 (T, H, W, 3)")
    _, height, width, _ = frames.shape
    exposed = (srgb_to_linear(np.arange(256) / 255.0) * 2.0**low_light.exposure_ev).astype(np.float32)
    balance = np.array(low_light.white_balance, dtype=np.float32)
    top = 2**low_light.adc_bits - 1
    pattern = rng.standard_normal((height, width, 3), dtype=np.float32) * np.float32(low_light.pattern_std)
    codes = np.empty(frames.shape, dtype=np.uint16)
    for index, frame in enumerate(frames):
        signal = exposed[frame] / balance
        if low_light.shot_gain > 0:
            electrons = rng.poisson(signal / np.float32(low_light.shot_gain))
            signal = electrons.astype(np.float32) * np.float32(low_light.shot_gain)
        signal += pattern
        signal += rng.standard_normal(frame.shape, dtype=np.float32) * np.float32(low_light.read_std)
        signal += rng.standard_normal((height, 1, 1), dtype=np.float32) * np.float32(low_light.row_std)
        black = low_light.black_level
        codes[index] = np.clip(np.rint((black + signal * (1 - black)) * top), 0, top)
    return codes


def develop(codes: Codes, low_light: LowLight) -> Frames:
    """Turn sensor codes into a picture: subtract black, balance white, apply the tone curve.

    Args:
        codes: uint16 (T, H, W, 3), from `expose` with the same `low_light`.
        low_light: the camera.

    Returns:
        uint8 (T, H, W, 3), sRGB-coded.
    """
    top = 2**low_light.adc_bits - 1
    black = low_light.black_level
    signal = (np.arange(top + 1) / top - black) / (1 - black)
    frames = np.empty(codes.shape, dtype=np.uint8)
    for channel, gain in enumerate(low_light.white_balance):
        coded = linear_to_srgb(np.clip(signal * gain, 0.0, 1.0)) ** low_light.toe
        frames[..., channel] = np.rint(coded * 255.0).astype(np.uint8)[codes[..., channel]]
    return frames


def srgb_to_linear(coded: NDArray[Any]) -> NDArray[Any]:
    """Undo the sRGB curve (IEC 61966-2-1): coded values in [0, 1] to linear light in [0, 1]."""
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: NDArray[Any]) -> NDArray[Any]:
    """Apply the sRGB curve (IEC 61966-2-1): linear light in [0, 1] to coded values in [0, 1]."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0.0) ** (1 / 2.4) - 0.055)

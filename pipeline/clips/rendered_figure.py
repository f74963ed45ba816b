"""The body of a rendered figure: its measures and clothes, its limbs in space, and how a camera sees them."""

from dataclasses import dataclass

import numpy as np

from pipeline.clips.rendered_motion import Array, Motion
from pipeline.clips.rendered_scene import Colour

# Linear reflectances.
CLOTHES: dict[str, Colour] = {
    "white": (0.75, 0.75, 0.72),
    "yellow": (0.72, 0.55, 0.12),
    "orange": (0.70, 0.30, 0.10),
    "red": (0.60, 0.10, 0.10),
    "pink": (0.70, 0.35, 0.42),
    "sky": (0.28, 0.48, 0.70),
    "green": (0.22, 0.50, 0.20),
    "grey": (0.40, 0.40, 0.42),
}
SKINS: dict[str, Colour] = {
    "fair": (0.68, 0.46, 0.36),
    "olive": (0.52, 0.34, 0.22),
    "brown": (0.34, 0.19, 0.12),
    "dark": (0.20, 0.11, 0.07),
}
HAIRS: dict[str, Colour] = {"black": (0.02, 0.02, 0.02), "brown": (0.12, 0.06, 0.03), "blond": (0.55, 0.40, 0.18)}
HELD = {"nothing": 0.0, "cup": 0.06, "bottle": 0.13}

# Lengths in body heights, as in anatomical tables of body segments (Drillis and Contini), rounded.
THIGH, SHIN, ANKLE, FOOT, TRUNK, UPPER_ARM, FOREARM = 0.245, 0.245, 0.04, 0.11, 0.29, 0.17, 0.16
SHOULDER_HALF, HIP_HALF, HEAD_ABOVE, HEAD_RADIUS = 0.105, 0.05, 0.115, 0.066

# The camera stands this many body heights off and as high as a shoulder.
CAMERA_DISTANCE, CAMERA_HEIGHT = 3.2, 0.8


@dataclass(frozen=True, kw_only=True)
class Body:
    """Measures and clothes of one figure."""

    height: float
    """Of the upright figure, share of the picture's height."""
    build: float
    """Factor on the thickness of trunk and limbs."""
    shirt: str
    """Colour, one of CLOTHES."""
    trousers: str
    """Colour, one of CLOTHES."""
    long_sleeves: bool
    """Whether the shirt covers the forearms."""
    skin: str
    """One of SKINS."""
    hair: str
    """One of HAIRS."""
    held: str
    """In the acting hand, one of HELD."""
    right_handed: bool
    """Which side acts."""


def draw_body(rng: np.random.Generator) -> Body:
    """Draw a figure without a look at what it will do."""
    return Body(
        height=rng.uniform(0.74, 0.82),
        build=rng.uniform(0.9, 1.25),
        shirt=str(rng.choice(list(CLOTHES))),
        trousers=str(rng.choice(list(CLOTHES))),
        long_sleeves=bool(rng.random() < 0.5),
        skin=str(rng.choice(list(SKINS))),
        hair=str(rng.choice(list(HAIRS))),
        held=str(rng.choice(list(HELD))),
        right_handed=bool(rng.random() < 0.5),
    )


@dataclass(frozen=True, kw_only=True)
class Limb:
    """A rounded cone between two moving points of the figure, in body heights: forward, up, to its right."""

    start: Array
    """(T, 3)"""
    end: Array
    """(T, 3)"""
    radii: tuple[float, float]
    """At start and end, in body heights."""
    colour: Colour
    """Linear reflectance."""


def place_limbs(body: Body, motion: Motion) -> list[Limb]:
    """Put the figure's limbs where its joint angles say, the lowest ankle on the floor."""
    zero = np.zeros_like(motion.lean)
    shirt, trousers, skin = CLOTHES[body.shirt], CLOTHES[body.trousers], SKINS[body.skin]
    sleeve = shirt if body.long_sleeves else skin
    thigh = THIGH * _ray(motion.thigh)
    shin = SHIN * _ray(motion.thigh - motion.knee)
    reach = thigh + shin  # (T, 2, 3) from hip to ankle
    hips_up = motion.lift + ANKLE - reach[..., 1].min(axis=1)
    # The body's centre stays above its feet: what the legs reach forward, the hips go back.
    hips = np.stack([-reach[..., 0].mean(axis=1), hips_up, zero], axis=-1)
    spine = TRUNK * np.stack([np.sin(motion.lean), np.cos(motion.lean), zero], axis=-1)
    gaze = motion.lean - motion.nod
    head = hips + spine + HEAD_ABOVE * np.stack([np.sin(0.6 * gaze), np.cos(0.6 * gaze), zero], axis=-1)
    face = np.stack([np.cos(gaze), -np.sin(gaze), zero], axis=-1)
    limbs = [
        _limb(hips + spine, head, (0.035, 0.035), skin),
        _limb(head, head + 0.012 * face, (HEAD_RADIUS, 0.055), skin),
        _limb(head - 0.022 * face + np.array([0.0, 0.022, 0.0]), head - 0.022 * face, (0.056, 0.056), HAIRS[body.hair]),
    ]
    for column in range(2):
        side = 1.0 if (column == 0) == body.right_handed else -1.0
        across = np.array([0.0, 0.0, side])
        hip, shoulder = hips + HIP_HALF * across, hips + spine + SHOULDER_HALF * across
        knee, ankle = hip + thigh[:, column], hip + reach[:, column]
        elbow = shoulder + UPPER_ARM * _ray(motion.arm[:, column], side * motion.spread[:, column])
        bend = motion.arm[:, column] + motion.elbow[:, column]
        hand = elbow + FOREARM * _ray(bend, side * motion.outward[:, column])
        limbs += [
            _limb(hip, hips + spine + 0.055 * across, (0.06, 0.068), shirt),
            _limb(hip, knee, (0.056, 0.042), trousers),
            _limb(knee, ankle, (0.042, 0.03), trousers),
            _limb(ankle, ankle + np.array([FOOT, -0.015, 0.0]), (0.03, 0.022), (0.05, 0.05, 0.05)),
            _limb(shoulder, elbow, (0.05, 0.042), shirt),
            _limb(elbow, hand, (0.042, 0.036), sleeve),
            _limb(hand, hand + 0.2 * (hand - elbow), (0.042, 0.036), skin),
        ]
        if column == 0 and HELD[body.held]:
            axis = np.stack([np.sin(motion.tilt), np.cos(motion.tilt), zero], axis=-1)
            limbs.append(_limb(hand, hand + HELD[body.held] * axis, (0.028, 0.02), (0.6, 0.65, 0.7)))
    return limbs


def _limb(start: Array, end: Array, radii: tuple[float, float], colour: Colour) -> Limb:
    return Limb(start=start, end=end, radii=radii, colour=colour)


def _ray(angle: Array, outward: Array | float = 0.0) -> Array:
    """(..., 3) unit vectors, from hanging down turned forward by angle, then outward to the right."""
    sideways = np.broadcast_to(outward, angle.shape)
    flat = np.cos(sideways)
    return np.stack([np.sin(angle) * flat, -np.cos(angle) * flat, np.sin(sideways)], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Where a camera sees a figure's limbs, in pixels as (column, row)."""

    starts: Array
    """(T, L, 2)"""
    ends: Array
    """(T, L, 2)"""
    radii: Array
    """(T, L, 2), at start and end"""
    depths: Array
    """(T, L), nearer greater"""


def project(limbs: list[Limb], *, facing: Array, scale: float, feet: tuple[Array, float], build: float) -> Seen:
    """Turn a figure about the vertical and see it in perspective.

    Args:
        limbs: L limbs, from `place_limbs`.
        facing: (T,), radians: 0 right, pi / 2 to the camera, pi left.
        scale: pixels a body height, at the figure's distance.
        feet: where the figure stands: columns (T,) and row, in pixels.
        build: factor on the limbs' radii.
    """
    points = np.stack([[limb.start for limb in limbs], [limb.end for limb in limbs]])  # (2, L, T, 3)
    forward, up, right = points[..., 0], points[..., 1], points[..., 2]
    across = forward * np.cos(facing) - right * np.sin(facing)
    depth = forward * np.sin(facing) + right * np.cos(facing)
    size = scale * CAMERA_DISTANCE / (CAMERA_DISTANCE - depth)
    columns = feet[0] + across * size
    rows = feet[1] - CAMERA_HEIGHT * scale + (CAMERA_HEIGHT - up) * size
    ends = np.stack([columns, rows], axis=-1).swapaxes(1, 2)  # (2, L, T, 2) -> (2, T, L, 2)
    radii = np.array([limb.radii for limb in limbs]).T[..., None] * build * size  # (2, L, T)
    return Seen(starts=ends[0], ends=ends[1], radii=radii.transpose(2, 1, 0), depths=depth.mean(axis=0).T)

"""Rendered action clips: an articulated figure, its clothes and body, the camera and the light, painted to frames.

Everything of a clip but its movement is drawn without a look at the class. The same seed, subset, class and number
give the same frames.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.low_light import linear_to_srgb
from pipeline.clips.rendered_motion import CLASS_NAMES, Array, Motion, draw_motion
from pipeline.clips.rendered_scene import SCENES, Colour, Image, paint_scene
from pipeline.clips.video import Frames

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

# A change to what is drawn or painted gives other frames: work that was left by another version is removed.
RENDER_VERSION = 1

# Lengths in body heights, as in anatomical tables of body segments (Drillis and Contini), rounded.
THIGH, SHIN, ANKLE, FOOT, TRUNK, UPPER_ARM, FOREARM = 0.245, 0.245, 0.04, 0.11, 0.29, 0.17, 0.16
SHOULDER_HALF, HIP_HALF, HEAD_ABOVE, HEAD_RADIUS = 0.105, 0.05, 0.115, 0.066

# The camera stands this many body heights off and as high as a shoulder.
CAMERA_DISTANCE, CAMERA_HEIGHT = 3.2, 0.8


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What a rendered clip shows. Shares are of the picture's width or height."""

    subset: str
    """train or test; decides which scenes there are."""
    class_name: str
    """The action, one of CLASS_NAMES."""
    number: int
    """Counts a class's clips of a subset, from 0."""
    scene: str
    """Name of the place."""
    figure_height: float
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
    facing: float
    """Direction the figure faces, radians: 0 right, pi / 2 to the camera, pi left."""
    centre: float
    """Where the figure is across, share of the width, averaged over the clip."""
    floor: float
    """Where the feet are, share of the height from the top."""
    light: tuple[float, float, float]
    """Unit vector to the lamp: right, up, to the camera."""
    lamp: tuple[float, float]
    """The lamp's place in the picture, shares of width and height from the top left."""
    ambient: float
    """Share of the light that comes from everywhere, 0 to 1."""
    warmth: float
    """Colour of the light, -1 (blue) to 1 (orange)."""
    level: float
    """Mean linear light of the lit clip, 0 to 1."""
    pan_start: float
    """Which part of the scene is seen, in picture widths."""
    shake: float
    """Amplitude of the camera's shake, share of the height."""
    seed: int
    """Of the run."""

    def rng(self, purpose: int) -> np.random.Generator:
        """Give the random numbers of one purpose; they depend on the clip's key alone."""
        subset = list(SCENES).index(self.subset)
        return np.random.default_rng([self.seed, subset, CLASS_NAMES.index(self.class_name), self.number, purpose])


# Purposes of a clip's random numbers.
SPEC, MOTION, SHAKE, DARKNESS = range(4)


def draw_clip(seed: int, subset: str, class_name: str, number: int) -> ClipSpec:
    """Draw scene, body, clothes, light and camera of a clip.

    The scene follows from the number, so every class is in every scene equally often.

    Args:
        seed: >= 0, of the run.
        subset: train or test.
        class_name: one of CLASS_NAMES.
        number: >= 0, which clip of its class and subset.

    Raises:
        ValueError: an unknown subset or class, or a number below 0.
    """
    if subset not in SCENES or class_name not in CLASS_NAMES or min(seed, number) < 0:
        raise ValueError(
            f"rendered clip: subset '{subset}', class '{class_name}', number {number}, seed {seed}; wanted "
            f"{' or '.join(SCENES)}, one of {', '.join(CLASS_NAMES)}, and numbers >= 0"
        )
    scene = SCENES[subset][number % len(SCENES[subset])]
    rng = np.random.default_rng([seed, list(SCENES).index(subset), CLASS_NAMES.index(class_name), number, SPEC])
    side = rng.uniform(-0.8, 0.8)
    light = np.array([side, rng.uniform(0.3, 0.9), rng.uniform(0.5, 1.0)])
    right, up, towards = (float(part) for part in light / np.linalg.norm(light))
    facing = rng.uniform(-0.1, 0.5)
    return ClipSpec(
        subset=subset,
        class_name=class_name,
        number=number,
        scene=scene.name,
        figure_height=rng.uniform(0.74, 0.82),
        build=rng.uniform(0.9, 1.25),
        shirt=str(rng.choice(list(CLOTHES))),
        trousers=str(rng.choice(list(CLOTHES))),
        long_sleeves=bool(rng.random() < 0.5),
        skin=str(rng.choice(list(SKINS))),
        hair=str(rng.choice(list(HAIRS))),
        held=str(rng.choice(list(HELD))),
        right_handed=bool(rng.random() < 0.5),
        facing=facing if rng.random() < 0.5 else np.pi - facing,
        centre=rng.uniform(0.46, 0.54),
        floor=rng.uniform(0.9, 0.94),
        light=(right, up, towards),
        lamp=(scene.light[0] + rng.uniform(-0.15, 0.15), scene.light[1] + rng.uniform(-0.1, 0.1)),
        ambient=rng.uniform(0.35, 0.6),
        warmth=float(np.clip(scene.warmth + rng.uniform(-0.25, 0.25), -1.0, 1.0)),
        level=rng.uniform(0.16, 0.22),
        pan_start=rng.uniform(0.0, 2.0),
        shake=rng.uniform(0.002, 0.008),
        seed=seed,
    )


def render_clip(spec: ClipSpec, *, num_frames: int, frame_size: tuple[int, int], fps: int) -> Frames:
    """Paint a lit clip.

    Args:
        spec: what it shows, from `draw_clip`.
        num_frames: T, >= 1.
        frame_size: (height, width) in pixels.
        fps: frames a second; the action keeps its pace in seconds.

    Returns:
        uint8 (T, H, W, 3), sRGB-coded.
    """
    height, width = frame_size
    times = np.arange(num_frames) / fps
    motion = draw_motion(spec.class_name, times, spec.rng(MOTION))
    shake = _shake(spec, times) * height
    limbs = _limbs(spec, motion)
    starts, ends, radii, depths, pan = _project(spec, limbs, motion, height, width)
    scene = next(scene for scene in SCENES[spec.subset] if scene.name == spec.scene)
    wall = paint_scene(scene, height, width) * np.float32(spec.ambient + (1 - spec.ambient) * spec.light[2])
    frames = np.empty((num_frames, height, width, 3), dtype=np.float32)
    for index in range(num_frames):
        left = spec.pan_start * width + pan[index] - shake[index, 0]
        picture = _pan(wall, left, shake[index, 1], width)
        _paint_shadow(picture, starts[index], shake[index], spec.floor * height)
        for limb in np.argsort(depths[index], kind="stable"):
            _paint_limb(
                picture,
                starts[index, limb] + shake[index],
                ends[index, limb] + shake[index],
                radii[index, limb],
                np.float32(limbs[limb].colour),
                spec,
            )
        frames[index] = picture
    frames *= _illumination(spec, height, width)
    frames *= spec.level / frames.mean()
    return np.rint(linear_to_srgb(np.clip(frames, 0.0, 1.0)) * 255.0).astype(np.uint8)


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


def _limbs(spec: ClipSpec, motion: Motion) -> list[Limb]:
    """Put the figure's limbs where its joint angles say, the lowest ankle on the floor."""
    zero = np.zeros_like(motion.lean)
    shirt, trousers, skin = CLOTHES[spec.shirt], CLOTHES[spec.trousers], SKINS[spec.skin]
    sleeve = shirt if spec.long_sleeves else skin
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
        _limb(head - 0.022 * face + [0, 0.022, 0], head - 0.022 * face, (0.056, 0.056), HAIRS[spec.hair]),
    ]
    for column in range(2):
        side = 1.0 if (column == 0) == spec.right_handed else -1.0
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
            _limb(ankle, ankle + [FOOT, -0.015, 0.0], (0.03, 0.022), (0.05, 0.05, 0.05)),
            _limb(shoulder, elbow, (0.05, 0.042), shirt),
            _limb(elbow, hand, (0.042, 0.036), sleeve),
            _limb(hand, hand + 0.2 * (hand - elbow), (0.042, 0.036), skin),
        ]
        if column == 0 and HELD[spec.held]:
            axis = np.stack([np.sin(motion.tilt), np.cos(motion.tilt), zero], axis=-1)
            limbs.append(_limb(hand, hand + HELD[spec.held] * axis, (0.028, 0.02), (0.6, 0.65, 0.7)))
    return limbs


def _limb(start: Array, end: Array, radii: tuple[float, float], colour: Colour) -> Limb:
    return Limb(start=start, end=end, radii=radii, colour=colour)


def _ray(angle: Array, outward: Array | float = 0.0) -> Array:
    """(..., 3) unit vectors, from hanging down turned forward by angle, then outward to the right."""
    sideways = np.broadcast_to(outward, angle.shape)
    flat = np.cos(sideways)
    return np.stack([np.sin(angle) * flat, -np.cos(angle) * flat, np.sin(sideways)], axis=-1)


def _project(
    spec: ClipSpec, limbs: list[Limb], motion: Motion, height: int, width: int
) -> tuple[Array, Array, Array, Array, Array]:
    """Turn the figure and see it in perspective.

    Returns:
        Starts and ends (T, L, 2) as (column, row), radii (T, L, 2) and depths (T, L) in pixels, nearer greater, and
        pan (T,): by how many columns the camera has followed the figure.
    """
    points = np.stack([[limb.start for limb in limbs], [limb.end for limb in limbs]])  # (2, L, T, 3)
    facing = spec.facing + motion.turn
    forward, up, right = points[..., 0], points[..., 1], points[..., 2]
    across = forward * np.cos(facing) - right * np.sin(facing)
    depth = forward * np.sin(facing) + right * np.cos(facing)
    scale = spec.figure_height * height
    nearness = CAMERA_DISTANCE / (CAMERA_DISTANCE - depth)
    # The camera follows a figure that goes far, so that it stays in the picture.
    way = (motion.travel - motion.travel.mean()) * np.cos(spec.facing) * scale
    seen = way * min(1.0, 0.1 * width / max(float(np.abs(way).max()), 1e-6))
    columns = spec.centre * width + seen + across * nearness * scale
    eye = spec.floor * height - CAMERA_HEIGHT * scale
    rows = eye + (CAMERA_HEIGHT - up) * nearness * scale
    thickness = np.array([limb.radii for limb in limbs]).T[..., None] * spec.build * scale * nearness
    ends = np.moveaxis(np.stack([columns, rows], axis=-1), 1, 2)  # (2, T, L, 2)
    return ends[0], ends[1], np.moveaxis(thickness, 0, -1).swapaxes(0, 1), depth.mean(axis=0).T, way - seen


def _shake(spec: ClipSpec, times: Array) -> Array:
    """(T, 2) wander of the camera as (column, row), in picture heights."""
    rng = spec.rng(SHAKE)
    wander = np.zeros((len(times), 2))
    for low_hz, high_hz, share in ((0.3, 0.8, 0.7), (1.5, 3.0, 0.3)):
        phase = 2 * np.pi * (times[:, None] * rng.uniform(low_hz, high_hz, 2) + rng.random(2))
        wander += share * np.sin(phase)
    return spec.shake * wander


def _pan(wall: Image, left: float, down: float, width: int) -> Image:
    """Cut (H, W, 3) out of a wall without end, to a part of a pixel."""
    columns = (np.arange(width + 1) + int(np.floor(left))) % wall.shape[1]
    rows = np.clip(np.arange(len(wall) + 1) - int(np.floor(down)) - 1, 0, len(wall) - 1)
    part = np.float32(left - np.floor(left))
    cut = wall[:, columns]
    cut = (1 - part) * cut[:, :-1] + part * cut[:, 1:]
    part = np.float32(down - np.floor(down))
    return (1 - part) * cut[rows[1:]] + part * cut[rows[:-1]]


def _paint_limb(
    picture: Image,
    start: Array,
    end: Array,
    radii: NDArray[np.float64],
    colour: Image,
    spec: ClipSpec,
) -> None:
    """Paint one rounded cone over the picture, shaded as if round, its edge blended over a pixel."""
    margin = radii.max() + 1.0
    low = np.maximum(np.floor(np.minimum(start, end) - margin), 0).astype(int)
    high = np.minimum(np.ceil(np.maximum(start, end) + margin) + 1, picture.shape[1::-1]).astype(int)
    if (low >= high).any():
        return
    column = np.arange(low[0], high[0], dtype=np.float32) - np.float32(start[0])
    row = np.arange(low[1], high[1], dtype=np.float32)[:, None] - np.float32(start[1])
    axis = (end - start).astype(np.float32)
    along = np.clip((column * axis[0] + row * axis[1]) / max(float(axis @ axis), 1e-6), 0.0, 1.0)
    off_column, off_row = column - along * axis[0], row - along * axis[1]
    radius = np.float32(radii[0]) + along * np.float32(radii[1] - radii[0])
    distance = np.sqrt(off_column**2 + off_row**2)
    cover = np.clip(radius - distance + 0.5, 0.0, 1.0)[..., None]
    bulge = np.sqrt(np.maximum(1.0 - (distance / radius) ** 2, 0.0))
    right, up, towards = spec.light
    lit = np.maximum((off_column * right - off_row * up) / np.maximum(radius, distance) + bulge * towards, 0.0)
    shade = np.float32(spec.ambient) + np.float32(1 - spec.ambient) * lit.astype(np.float32)
    window = picture[low[1] : high[1], low[0] : high[0]]
    window += cover * (shade[..., None] * colour - window)


def _paint_shadow(picture: Image, points: Array, shake: Array, floor: float) -> None:
    """Darken the floor under the figure."""
    height, width = picture.shape[:2]
    centre, spread = points[:, 0].mean() + shake[0], max(float(np.ptp(points[:, 0])), 1.0) * 0.6
    column = (np.arange(width, dtype=np.float32) - np.float32(centre)) / np.float32(spread)
    row = (np.arange(height, dtype=np.float32)[:, None] - np.float32(floor + shake[1])) / np.float32(0.03 * height)
    picture *= (1 - 0.4 * np.exp(-(column**2) - row**2))[..., None]


def _illumination(spec: ClipSpec, height: int, width: int) -> Image:
    """(H, W, 3) light of the lamp: brighter near it, coloured by its warmth."""
    rows = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width
    distance = (columns - spec.lamp[0]) ** 2 + (rows - spec.lamp[1]) ** 2
    colour = np.array([1 + 0.3 * spec.warmth, 1.0, 1 - 0.4 * spec.warmth], dtype=np.float32)
    return (0.4 + 1.0 / (1.0 + 1.5 * distance))[..., None].astype(np.float32) * colour

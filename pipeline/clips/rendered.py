"""Rendered action clips: a figure, a scene, the camera and the light, painted to frames.

Everything of a clip but its movement is drawn without a look at the class. The same seed, subset, class and number
give the same frames.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.clips.low_light import linear_to_srgb
from pipeline.clips.rendered_figure import Body, Seen, draw_body, place_limbs, project
from pipeline.clips.rendered_motion import CLASS_NAMES, Array, draw_motion
from pipeline.clips.rendered_scene import (
    SCENES,
    Image,
    lamp_light,
    paint_scene,
    pan_scene,
    scene_named,
    scenes_of,
)
from pipeline.clips.video import Frames

# A change to what is drawn or painted gives other frames: work that was left by another version is removed.
RENDER_VERSION = 1

# What a clip's random numbers are for; each has its own stream, so that more draws of one leave the others.
SPEC, MOTION, SHAKE, DARKNESS = range(4)


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What a rendered clip shows. Shares are of the picture's width or height."""

    seed: int
    """Of the run."""
    subset: str
    """train or test; decides which scenes there are."""
    class_name: str
    """The action, one of CLASS_NAMES."""
    number: int
    """Counts a class's clips of a subset, from 0."""
    scene: str
    """Name of the place."""
    body: Body
    """The figure's measures and clothes."""
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

    def rng(self, purpose: int) -> np.random.Generator:
        """Give the random numbers of one purpose; they depend on the clip's key alone."""
        return _clip_rng(self.seed, self.subset, self.class_name, self.number, purpose)


def _clip_rng(seed: int, subset: str, class_name: str, number: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, list(SCENES).index(subset), CLASS_NAMES.index(class_name), number, purpose])


def draw_clip(seed: int, subset: str, class_name: str, number: int, *, num_scenes: int | None = None) -> ClipSpec:
    """Draw scene, body, clothes, light and camera of a clip.

    The scene follows from the number, so every class is in every scene equally often, if clips fill all scenes.

    Args:
        seed: >= 0, of the run.
        subset: train or test.
        class_name: one of CLASS_NAMES.
        number: >= 0, which clip of its class and subset.
        num_scenes: scenes of the subset, >= 1; None for those that were made by hand.

    Raises:
        ValueError: an unknown subset or class, or a number below 0.
    """
    if subset not in SCENES or class_name not in CLASS_NAMES or min(seed, number) < 0:
        raise ValueError(
            f"rendered clip: subset '{subset}', class '{class_name}', number {number}, seed {seed}; wanted "
            f"{' or '.join(SCENES)}, one of {', '.join(CLASS_NAMES)}, and numbers >= 0"
        )
    scenes = scenes_of(subset, len(SCENES[subset]) if num_scenes is None else num_scenes)
    scene = scenes[number % len(scenes)]
    rng = _clip_rng(seed, subset, class_name, number, SPEC)
    light = np.array([rng.uniform(-0.8, 0.8), rng.uniform(0.3, 0.9), rng.uniform(0.5, 1.0)])
    right, up, towards = (float(part) for part in light / np.linalg.norm(light))
    facing = rng.uniform(-0.3, 0.8)
    return ClipSpec(
        seed=seed,
        subset=subset,
        class_name=class_name,
        number=number,
        scene=scene.name,
        body=draw_body(rng),
        facing=facing if rng.random() < 0.5 else float(np.pi) - facing,
        centre=rng.uniform(0.46, 0.54),
        floor=rng.uniform(0.9, 0.94),
        light=(right, up, towards),
        lamp=(scene.light[0] + rng.uniform(-0.15, 0.15), scene.light[1] + rng.uniform(-0.1, 0.1)),
        ambient=rng.uniform(0.35, 0.6),
        warmth=float(np.clip(scene.warmth + rng.uniform(-0.25, 0.25), -1.0, 1.0)),
        level=rng.uniform(0.16, 0.22),
        pan_start=rng.uniform(0.0, 2.0),
        shake=rng.uniform(0.002, 0.008),
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
    limbs = place_limbs(spec.body, motion)
    scale = spec.body.height * height
    columns, pan = _follow(motion.travel * np.cos(spec.facing) * scale, width)
    feet = (spec.centre * width + columns, spec.floor * height)
    facing = spec.facing + motion.turn
    seen = project(limbs, facing=facing, scale=scale, feet=feet, build=spec.body.build)
    colours = [np.array(limb.colour, dtype=np.float32) for limb in limbs]
    shake = _shake(spec, times) * height
    scene = scene_named(spec.subset, spec.scene)
    wall = paint_scene(scene, height, width) * np.float32(spec.ambient + (1 - spec.ambient) * spec.light[2])
    frames = np.empty((num_frames, height, width, 3), dtype=np.float32)
    for index, (right, down) in enumerate(shake):
        left = spec.pan_start * width + pan[index] - right
        frames[index] = pan_scene(wall, left, down, width)
        _paint_figure(frames[index], seen, index, shake[index], colours, spec)
    frames *= lamp_light(spec.lamp, spec.warmth, height, width)
    frames *= spec.level / frames.mean()
    return np.rint(linear_to_srgb(np.clip(frames, 0.0, 1.0)) * 255.0).astype(np.uint8)


def _follow(way: Array, width: int) -> tuple[Array, Array]:
    """Let the camera follow a figure that goes far, so that it stays in the picture.

    Returns:
        (T,) columns that the figure moves in the picture, around 0, and (T,) columns that the camera pans.
    """
    way = way - way.mean()
    seen = way * min(1.0, 0.1 * width / max(float(np.abs(way).max()), 1e-6))
    return seen, way - seen


def _shake(spec: ClipSpec, times: Array) -> Array:
    """(T, 2) wander of the camera as (column, row), in picture heights."""
    rng = spec.rng(SHAKE)
    wander = np.zeros((len(times), 2))
    for low_hz, high_hz, share in ((0.3, 0.8, 0.7), (1.5, 3.0, 0.3)):
        phase = 2 * np.pi * (times[:, None] * rng.uniform(low_hz, high_hz, 2) + rng.random(2))
        wander += share * np.sin(phase)
    return spec.shake * wander


def _paint_figure(picture: Image, seen: Seen, index: int, shift: Array, colours: list[Image], spec: ClipSpec) -> None:
    """Paint the figure of one frame over the picture, with its shadow, far limbs first."""
    starts, ends = seen.starts[index] + shift, seen.ends[index] + shift
    _paint_shadow(picture, starts, spec.floor * len(picture) + float(shift[1]))
    cones = list(zip(starts.tolist(), ends.tolist(), seen.radii[index].tolist(), colours, strict=True))
    for limb in np.argsort(seen.depths[index], kind="stable"):
        start, end, radii, colour = cones[limb]
        _paint_limb(picture, start, end, radii, colour, spec)


def _paint_limb(
    picture: Image, start: list[float], end: list[float], radii: list[float], colour: Image, spec: ClipSpec
) -> None:
    """Paint one rounded cone over the picture, shaded as if round, its edge blended over a pixel."""
    margin = max(radii) + 1.0
    # Plain floats: numpy's own scalars would take most of the time in windows this small.
    left, right = (max(math.floor(min(start[0], end[0]) - margin), 0), math.ceil(max(start[0], end[0]) + margin))
    top, bottom = (max(math.floor(min(start[1], end[1]) - margin), 0), math.ceil(max(start[1], end[1]) + margin))
    window = picture[top : max(bottom, 0) + 1, left : max(right, 0) + 1]
    height, width = window.shape[:2]
    if height == 0 or width == 0:
        return
    column = np.arange(width, dtype=np.float32) + (left - start[0])
    row = np.arange(height, dtype=np.float32)[:, None] + (top - start[1])
    axis = (end[0] - start[0], end[1] - start[1])
    squared = max(axis[0] ** 2 + axis[1] ** 2, 1e-6)
    along = column * (axis[0] / squared) + row * (axis[1] / squared)
    along = np.minimum(np.maximum(along, 0.0), 1.0)
    off_column, off_row = column - along * axis[0], row - along * axis[1]
    radius = radii[0] + along * (radii[1] - radii[0])
    distance = np.sqrt(off_column * off_column + off_row * off_row)
    cover = np.minimum(np.maximum(radius - distance + 0.5, 0.0), 1.0)
    share = np.minimum(distance / radius, 1.0)
    rightward, upward, towards = spec.light
    lit = (off_column * rightward - off_row * upward) / radius + np.sqrt(1.0 - share * share) * towards
    shade = spec.ambient + (1 - spec.ambient) * np.maximum(lit, 0.0)
    window += cover[..., None] * (shade[..., None] * colour - window)


def _paint_shadow(picture: Image, points: Array, floor: float) -> None:
    """Darken the floor under the figure."""
    height, width = picture.shape[:2]
    centre, spread = points[:, 0].mean(), max(float(np.ptp(points[:, 0])), 1.0) * 0.6
    column = (np.arange(width, dtype=np.float32) - np.float32(centre)) / np.float32(spread)
    row = (np.arange(height, dtype=np.float32)[:, None] - np.float32(floor)) / np.float32(0.03 * height)
    picture *= (1 - 0.4 * np.exp(-(column**2) - row**2))[..., None]

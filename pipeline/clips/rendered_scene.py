"""Where a rendered figure acts: walls, floors and things of 12 made-up places, and of any number of drawn ones.

Train and test share no scene. A ledge at seat height runs through every scene, so that a seat tells no class.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Colour = tuple[float, float, float]

# Rows of the picture, from the top, as shares of its height.
FLOOR_TOP, LEDGE_TOP, LEDGE_BOTTOM = 0.70, 0.66, 0.70


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A place. Colours are linear reflectances in [0, 1]."""

    name: str
    """Written into file names; one word, lower case."""
    wall: Colour
    """Of the wall, before its pattern."""
    pattern: str
    """Of the wall: plain, bricks, panels, stripes or leaves."""
    floor: Colour
    """Of the floor; the ledge takes it too, brighter."""
    things: tuple[tuple[float, float, float, float, float], ...]
    """Rectangles (left, top, width, height, brightness): shares of the picture, factor on the wall's colour."""
    light: tuple[float, float]
    """Where the lamp is, as shares of width and height from the top left; may lie outside the picture."""
    warmth: float
    """Of the lamp's colour, -1 (blue) to 1 (orange)."""


TRAIN_SCENES = (
    Scene(
        name="office",
        wall=(0.13, 0.13, 0.11),
        pattern="panels",
        floor=(0.07, 0.07, 0.08),
        things=((0.1, 0.1, 0.3, 0.3, 1.8), (1.2, 0.15, 0.25, 0.5, 0.5)),
        light=(0.3, -0.2),
        warmth=0.1,
    ),
    Scene(
        name="corridor",
        wall=(0.10, 0.12, 0.10),
        pattern="plain",
        floor=(0.10, 0.08, 0.07),
        things=((0.0, 0.12, 0.2, 0.58, 0.5), (1.0, 0.12, 0.2, 0.58, 1.5)),
        light=(0.9, 0.1),
        warmth=0.5,
    ),
    Scene(
        name="garage",
        wall=(0.09, 0.09, 0.10),
        pattern="stripes",
        floor=(0.06, 0.06, 0.06),
        things=((0.6, 0.3, 0.5, 0.12, 1.9), (1.6, 0.2, 0.15, 0.5, 0.6)),
        light=(0.1, 0.3),
        warmth=-0.3,
    ),
    Scene(
        name="kitchen",
        wall=(0.16, 0.13, 0.10),
        pattern="bricks",
        floor=(0.09, 0.07, 0.05),
        things=((0.2, 0.05, 0.5, 0.22, 0.5), (1.3, 0.05, 0.4, 0.22, 0.6)),
        light=(0.6, -0.1),
        warmth=0.7,
    ),
    Scene(
        name="street",
        wall=(0.08, 0.07, 0.07),
        pattern="bricks",
        floor=(0.07, 0.07, 0.07),
        things=((0.7, 0.2, 0.2, 0.35, 2.2), (1.5, 0.2, 0.2, 0.35, 2.2)),
        light=(1.1, -0.3),
        warmth=0.8,
    ),
    Scene(
        name="park",
        wall=(0.05, 0.09, 0.04),
        pattern="leaves",
        floor=(0.07, 0.09, 0.04),
        things=((0.3, 0.0, 0.08, 0.7, 0.5), (1.1, 0.0, 0.1, 0.7, 0.4)),
        light=(-0.1, -0.2),
        warmth=-0.5,
    ),
    Scene(
        name="shop",
        wall=(0.12, 0.10, 0.12),
        pattern="stripes",
        floor=(0.11, 0.10, 0.10),
        things=((0.4, 0.25, 0.4, 0.25, 1.7), (1.4, 0.25, 0.4, 0.25, 0.5)),
        light=(0.5, -0.4),
        warmth=-0.1,
    ),
    Scene(
        name="stairwell",
        wall=(0.12, 0.12, 0.13),
        pattern="plain",
        floor=(0.08, 0.08, 0.08),
        things=((0.0, 0.4, 2.0, 0.04, 0.5), (0.8, 0.05, 0.2, 0.25, 1.9)),
        light=(0.2, 0.0),
        warmth=0.3,
    ),
)
TEST_SCENES = (
    Scene(
        name="library",
        wall=(0.12, 0.10, 0.07),
        pattern="panels",
        floor=(0.08, 0.07, 0.07),
        things=((0.1, 0.2, 0.5, 0.08, 0.5), (1.1, 0.35, 0.6, 0.08, 1.6)),
        light=(0.8, -0.2),
        warmth=0.6,
    ),
    Scene(
        name="platform",
        wall=(0.10, 0.11, 0.13),
        pattern="bricks",
        floor=(0.08, 0.08, 0.08),
        things=((0.5, 0.15, 0.4, 0.12, 2.0), (1.2, 0.0, 0.12, 0.7, 0.6)),
        light=(0.4, -0.3),
        warmth=-0.4,
    ),
    Scene(
        name="yard",
        wall=(0.08, 0.08, 0.05),
        pattern="leaves",
        floor=(0.08, 0.07, 0.05),
        things=((0.9, 0.1, 0.06, 0.6, 1.8), (1.7, 0.3, 0.2, 0.4, 0.5)),
        light=(1.0, 0.0),
        warmth=0.2,
    ),
    Scene(
        name="cellar",
        wall=(0.11, 0.10, 0.09),
        pattern="plain",
        floor=(0.07, 0.06, 0.06),
        things=((0.2, 0.3, 0.2, 0.4, 0.5), (1.0, 0.1, 0.3, 0.15, 1.7)),
        light=(0.0, 0.1),
        warmth=0.9,
    ),
)
SCENES = {"train": TRAIN_SCENES, "test": TEST_SCENES}
PATTERNS = ("plain", "bricks", "panels", "stripes", "leaves")


def scenes_of(subset: str, count: int) -> tuple[Scene, ...]:
    """So many scenes of train or test: those above, then drawn ones, which are the same in every run.

    Raises:
        ValueError: fewer than one.
    """
    if count < 1:
        raise ValueError(f"rendered scenes: found {count}, wanted at least 1")
    made = SCENES[subset]
    return made[:count] + tuple(_draw_scene(subset, number) for number in range(len(made), count))


def scene_named(subset: str, name: str) -> Scene:
    """The scene of this name, made or drawn.

    Raises:
        ValueError: there is none.
    """
    made = {scene.name: scene for scene in SCENES[subset]}
    if name in made:
        return made[name]
    number = name.removeprefix(subset)
    if not number.isdecimal() or int(number) <= len(made):
        raise ValueError(f"rendered scene '{name}': wanted {', '.join(made)}, or {subset}{len(made) + 1} and on")
    return _draw_scene(subset, int(number) - 1)


@functools.cache
def _draw_scene(subset: str, number: int) -> Scene:
    """A scene within the ranges of the made ones; called train9, test5 and so on."""
    rng = np.random.default_rng([list(SCENES).index(subset), number])

    def colour(low: float, high: float) -> Colour:
        tint = rng.uniform(0.85, 1.15, 3) * rng.uniform(low, high)
        return (float(tint[0]), float(tint[1]), float(tint[2]))

    def thing(left: float) -> tuple[float, float, float, float, float]:
        brightness = rng.uniform(1.5, 2.2) if rng.random() < 0.5 else rng.uniform(0.4, 0.6)
        place = (left + rng.uniform(0.0, 0.7), rng.uniform(0.0, 0.35), rng.uniform(0.06, 0.5), rng.uniform(0.08, 0.35))
        return (*place, float(brightness))

    return Scene(
        name=f"{subset}{number + 1}",
        wall=colour(0.06, 0.15),
        pattern=PATTERNS[rng.integers(len(PATTERNS))],
        floor=colour(0.05, 0.10),
        things=(thing(0.0), thing(1.0)),
        light=(float(rng.uniform(-0.1, 1.1)), float(rng.uniform(-0.4, 0.3))),
        warmth=float(rng.uniform(-0.5, 0.9)),
    )


@functools.lru_cache(maxsize=32)
def paint_scene(scene: Scene, height: int, width: int) -> Image:
    """Paint a scene twice as wide as the picture; its left and right edges meet, so a camera can pan for ever.

    Args:
        scene: the place.
        height: of the picture, in pixels.
        width: of the picture, in pixels.

    Returns:
        float32 (height, 2 * width, 3), linear reflectance; shared between calls, so read-only.
    """
    rows = (np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)) / np.float32(height)
    columns = (np.arange(2 * width, dtype=np.float32)[None, :] + np.float32(0.5)) / np.float32(width)
    wall, ground = np.array(scene.wall, dtype=np.float32), np.array(scene.floor, dtype=np.float32)
    picture = wall * _wall_pattern(scene, rows, columns)[..., None]
    for left, top, thing_width, thing_height, brightness in scene.things:
        inside = (rows >= top) & (rows < top + thing_height) & ((columns - left) % 2.0 < thing_width)
        picture[inside] = wall * np.float32(brightness)
    on_floor = np.broadcast_to(rows >= FLOOR_TOP, picture.shape[:2])
    # Darker towards the wall, as a floor seen at a flat angle is.
    floor = ground * (0.7 + (rows[..., None] - FLOOR_TOP))
    picture = np.where(on_floor[..., None], floor, picture)
    ledge = np.broadcast_to((rows >= LEDGE_TOP) & (rows < LEDGE_BOTTOM), picture.shape[:2])
    picture[ledge] = ground * np.float32(1.5)
    grain = np.random.default_rng(_number(scene)).normal(1.0, 0.05, (height, 2 * width, 1))
    picture = np.clip(picture * grain, 0.0, 1.0).astype(np.float32)
    picture.flags.writeable = False
    return picture


def pan_scene(wall: Image, left: float, down: float, width: int) -> Image:
    """Cut what the camera sees out of a painted scene, to a part of a pixel.

    Args:
        wall: float32 (H, 2W, 3), from `paint_scene`; its left and right edges meet.
        left: column of the scene at the picture's left edge, any number.
        down: by how many rows the picture is shifted down.
        width: W, of the picture.
    """
    columns = (np.arange(width + 1) + int(np.floor(left))) % wall.shape[1]
    rows = np.clip(np.arange(len(wall) + 1) - int(np.floor(down)) - 1, 0, len(wall) - 1)
    part = np.float32(left - np.floor(left))
    cut = wall[:, columns]
    cut = (1 - part) * cut[:, :-1] + part * cut[:, 1:]
    part = np.float32(down - np.floor(down))
    return (1 - part) * cut[rows[1:]] + part * cut[rows[:-1]]


def lamp_light(lamp: tuple[float, float], warmth: float, height: int, width: int) -> Image:
    """Light of a lamp over the picture: brighter near it, coloured by its warmth; float32 (H, W, 3).

    Args:
        lamp: its place, shares of width and height from the top left.
        warmth: of its colour, -1 (blue) to 1 (orange).
        height: of the picture, in pixels.
        width: of the picture, in pixels.
    """
    rows = (np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)) / np.float32(height)
    columns = (np.arange(width, dtype=np.float32) + np.float32(0.5)) / np.float32(width)
    distance = (columns - lamp[0]) ** 2 + (rows - lamp[1]) ** 2
    colour = np.array([1 + 0.3 * warmth, 1.0, 1 - 0.4 * warmth], dtype=np.float32)
    return (0.4 + 1.0 / (1.0 + 1.5 * distance))[..., None].astype(np.float32) * colour


def _wall_pattern(scene: Scene, rows: Image, columns: Image) -> Image:
    """(H, 2W) factors on the wall's colour; whole periods in two pictures' width."""
    flat = np.ones(np.broadcast_shapes(rows.shape, columns.shape), dtype=np.float32)
    if scene.pattern == "plain":
        return flat * (1.1 - 0.3 * rows)
    if scene.pattern == "stripes":
        return np.where(columns * 6 % 1.0 < 0.5, 1.1 * flat, 0.8 * flat)
    if scene.pattern == "panels":
        return np.where((columns * 3 % 1.0 < 0.06) | (rows * 3 % 1.0 < 0.06), 0.6 * flat, flat)
    if scene.pattern == "bricks":
        course = np.floor(rows * 12)
        joint = (rows * 12 % 1.0 < 0.2) | ((columns * 6 + 0.5 * (course % 2)) % 1.0 < 0.1)
        return np.where(joint, 1.25 * flat, 0.95 * flat)
    coarse = np.random.default_rng(_number(scene)).uniform(0.5, 1.5, (16, 40))
    row, column = np.int64(rows * 16), np.int64(columns * 20)
    leaves: Image = coarse[row, column].astype(np.float32)
    return leaves


def _number(scene: Scene) -> list[int]:
    return list(scene.name.encode())

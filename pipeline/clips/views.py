"""Views: how a clip is seen once. Drawing decides, applying gives the same pixels every time."""

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.clips.video import Frames

PIXEL_PATH = "orient, swscale bilinear accurate bitexact full chroma, crop, torch bilinear antialias, flip; 1"
"""Names the arithmetic between file and pixels; change it with the arithmetic, since stored views depend on it."""


# Corners, centre, middles of the sides and of the quarters, in fourths of the room that a crop has (rows, columns).
GRID_POINTS = (
    *((0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4), (4, 0), (4, 2), (4, 4)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)


@dataclass(frozen=True, kw_only=True)
class View:
    """How a clip is seen once. Replaying a view gives the same pixels."""

    frame_indices: tuple[int, ...]
    """Indices into the decoded video, in order; repeated where the video is shorter than the view."""
    crop: tuple[int, int, int, int]
    """Crop box (top, left, height, width), in pixels of the resized frame."""
    flip: bool
    """Mirror left to right, after the crop."""


@dataclass(frozen=True, kw_only=True)
class ViewRule:
    """What views are drawn from: the settings that all views of a run share."""

    frames: int
    """Frames a view, T."""
    sampling: str
    """consecutive or spread."""
    stride: int
    """Decoded frames between two of the view, for consecutive sampling."""
    jitter: float
    """Share of its part, around the middle, that a frame of a spread view is drawn from; 0 to 1."""
    loop: bool
    """Start a short video over; else it is refused."""
    frame_size: tuple[int, int]
    """(height, width) of the resized frame in pixels."""
    size: int
    """Height and width of the view in pixels."""
    scales: tuple[float, ...]
    """Crop sides as shares of the short side of the resized frame."""
    positions: str
    """random: a drawn crop lies anywhere; fixed: at one of DarkLight's 13 grid points."""
    flip: bool
    """Mirror half of the drawn views."""
    seed: int
    """Draws the views."""


def view_rule(settings: Mapping[str, Any]) -> ViewRule:
    """The rule among the settings of a section of params.yaml; other keys are left alone."""
    chosen: dict[str, Any] = {field.name: settings[field.name] for field in dataclasses.fields(ViewRule)}
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    return ViewRule(**chosen)


def view_fields(rule: ViewRule, *, mode: str, colour_range: str) -> dict[str, str | int | float | bool]:
    """Everything that stored views and their pixels depend on, as plain values under stable names."""
    fields: dict[str, str | int | float | bool] = {
        f"view_{name}": "x".join(str(part) for part in value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(rule).items()
    }
    # `independent` changes what the student sees, not what is stored.
    drawn = "fixed" if mode == "fixed" else "drawn"
    return fields | {"view_mode": drawn, "colour_range": colour_range, "pixel_path": PIXEL_PATH}


def draw_view(rule: ViewRule, *, clip_id: str, num_frames: int, number: int) -> View:
    """Draw view `number` of a clip: a function of (rule, clip id, length, number) and of nothing else.

    Args:
        rule: the settings.
        clip_id: the clip's path relative to the videos' root.
        num_frames: frames of the video.
        number: which view, 0-based.

    Raises:
        ValueError: the video is shorter than the view and the rule forbids looping.
    """
    rng = _generator(rule.seed, clip_id, number)
    return View(
        frame_indices=_drawn_indices(rule, clip_id, num_frames, rng),
        crop=_drawn_crop(rule, rng),
        flip=bool(rng.random() < 0.5) and rule.flip,
    )


def centre_view(rule: ViewRule, *, clip_id: str, num_frames: int) -> View:
    """The middle of the clip and of the frame, not flipped."""
    (view,) = evaluation_views(rule, clip_id=clip_id, num_frames=num_frames, clips=1, crops="centre")
    return view


def evaluation_views(rule: ViewRule, *, clip_id: str, num_frames: int, clips: int, crops: str) -> tuple[View, ...]:
    """The views of a test clip whose answers are averaged; one clip and the centre crop give `centre_view`.

    Args:
        rule: the settings.
        clip_id: the clip.
        num_frames: frames of the video.
        clips: starts in time, evenly spaced: number i of N lies (2 i + 1) / (2 N) of the way.
        crops: centre; five (corners and centre); ten (and the same five mirrored).
    """
    height, width = rule.frame_size
    down, right = height - rule.size, width - rule.size
    corners = [(0, 0), (0, right), (down, 0), (down, right)]
    places = [(down // 2, right // 2)] if crops == "centre" else [*corners, (down // 2, right // 2)]
    span = _span(rule, clip_id, num_frames)
    views = []
    for part in range(clips):
        if rule.sampling == "spread":
            indices = _spread(rule.frames, num_frames, np.full(rule.frames, (2 * part + 1) / (2 * clips)))
        else:
            indices = _consecutive(rule, num_frames, max(0, num_frames - span) * (2 * part + 1) // (2 * clips))
        for flip in (False, True) if crops == "ten" else (False,):
            views += [
                View(frame_indices=indices, crop=(top, left, rule.size, rule.size), flip=flip) for top, left in places
            ]
    return tuple(views)


def training_view(
    rule: ViewRule, *, mode: str, clip_id: str, num_frames: int, epoch: int, num_views: int | None
) -> View:
    """The view of a training clip in an epoch.

    Args:
        rule: the settings.
        mode: consistent draws view `epoch` mod V; independent draws a new one each epoch, from another seed;
            fixed gives the centre view.
        clip_id: the clip.
        num_frames: frames of the video.
        epoch: 0-based.
        num_views: V, the views that the logit store holds; None for a new view each epoch.
    """
    if mode == "fixed":
        return centre_view(rule, clip_id=clip_id, num_frames=num_frames)
    if mode == "independent":
        rule = dataclasses.replace(rule, seed=rule.seed + 1)
        num_views = None
    number = epoch if num_views is None else epoch % num_views
    return draw_view(rule, clip_id=clip_id, num_frames=num_frames, number=number)


def apply_view(frames: Frames, view: View, size: int) -> Frames:
    """Crop, resize and flip the frames of a view.

    Args:
        frames: uint8 (T, H, W, 3): the view's frames in order, each resized to the rule's frame size.
        view: its crop box and flip are applied; its indices were used to choose `frames`.
        size: height and width of the result in pixels.

    Returns:
        uint8 (T, size, size, 3).
    """
    top, left, height, width = view.crop
    pixels = frames[:, top : top + height, left : left + width]
    if (height, width) != (size, size):
        planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)  # (T, H, W, C) -> (T, C, H, W)
        resized = functional.interpolate(
            planes, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        pixels = resized.permute(0, 2, 3, 1).numpy()  # (T, C, H, W) -> (T, H, W, C)
    if view.flip:
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(pixels)


def pixel_crc32(pixels: Frames) -> int:
    """crc32 of a view's pixels, uint8 (T, H, W, 3): says whether a stored row still belongs to what is seen."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def _generator(seed: int, clip_id: str, number: int) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}\0{number}\0{clip_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _span(rule: ViewRule, clip_id: str, num_frames: int) -> int:
    """Decoded frames that a view covers; refuses a video that is too short for a rule without looping."""
    span = (rule.frames - 1) * rule.stride + 1 if rule.sampling == "consecutive" else rule.frames
    if num_frames < span and not rule.loop:
        raise ValueError(
            f"{clip_id}: has {num_frames} frames, the view needs {span}; set views.loop: true, or lower "
            "views.frames or views.stride. Where it is a window that has so few, give a longer --window"
        )
    return span


def _drawn_indices(rule: ViewRule, clip_id: str, num_frames: int, rng: np.random.Generator) -> tuple[int, ...]:
    span = _span(rule, clip_id, num_frames)
    if rule.sampling == "spread":
        return _spread(rule.frames, num_frames, 0.5 + (rng.random(rule.frames) - 0.5) * rule.jitter)
    return _consecutive(rule, num_frames, int(rng.integers(0, max(1, num_frames - span + 1))))


def _consecutive(rule: ViewRule, num_frames: int, start: int) -> tuple[int, ...]:
    return tuple((start + step * rule.stride) % num_frames for step in range(rule.frames))


def _spread(count: int, num_frames: int, inside: NDArray[np.float64]) -> tuple[int, ...]:
    """One index from each of `count` equal parts of the video; a short video starts over."""
    if num_frames < count:
        return tuple(step % num_frames for step in range(count))
    indices = ((np.arange(count) + inside) * num_frames / count).astype(int)
    return tuple(int(index) for index in np.minimum(indices, num_frames - 1))


def _drawn_crop(rule: ViewRule, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box whose sides are neighbouring scales, so that its shape stays within one step of square."""
    sides = [max(1, round(scale * min(rule.frame_size))) for scale in sorted(rule.scales, reverse=True)]
    pairs = [(tall, wide) for i, tall in enumerate(sides) for j, wide in enumerate(sides) if abs(i - j) <= 1]
    height, width = pairs[int(rng.integers(len(pairs)))]
    if rule.positions == "fixed":
        # The grid is that of crops of `size`. A larger one is cut off at the frame's border, as in DarkLight's code.
        rows, columns = GRID_POINTS[int(rng.integers(len(GRID_POINTS)))]
        top, left = rows * ((rule.frame_size[0] - rule.size) // 4), columns * ((rule.frame_size[1] - rule.size) // 4)
        return top, left, min(height, rule.frame_size[0] - top), min(width, rule.frame_size[1] - left)
    top = int(rng.integers(0, rule.frame_size[0] - height + 1))
    left = int(rng.integers(0, rule.frame_size[1] - width + 1))
    return top, left, height, width

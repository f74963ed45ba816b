"""How far an exported file's logits lie from its checkpoint's, on real clips or on noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.clips.video import VIDEO_SUFFIXES, Frames, decode, probe
from pipeline.clips.video_files import videos_below
from pipeline.clips.views import apply_view, centre_view
from pipeline.inference.exported_file import Run
from pipeline.training.checkpoint import Preprocessing

LARGEST_RELATIVE = 1e-4
"""Largest difference of a logit, as a share of the largest logit, that rounding in float32 explains."""
CLIPS = 8
"""Clips of each folder that are measured on, evenly spaced by name."""
NOISE_VIEWS = 4
TOGETHER = 3
"""Clips that pass together after each passed alone: a file that holds for one number of clips only fails."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """What parity is measured on."""

    source: str
    """"real clips" or "noise, seed 0"."""
    names: tuple[str, ...]
    """Of the clips; none for noise."""
    fps: float | None
    """Median frame rate of the clips, frames a second; None where nothing says."""
    pixels: Frames
    """uint8 (N, T, S, S, 3)."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What was found."""

    largest_difference: float
    """Of a logit."""
    largest_logit: float
    """Magnitude of the checkpoint's largest logit on the same views."""
    relative: float
    """The first over the second."""


def open_views(preprocessing: Preprocessing, videos: Sequence[Path]) -> Views:
    """Decode the test view of clips, as the checkpoint sees them; or draw noise where no clip is given.

    Args:
        preprocessing: the checkpoint's, for frames that it sees dark or enhances by itself.
        videos: videos, and folders of which `CLIPS` videos each are taken.

    Raises:
        ValueError: no video is there, one cannot be decoded, or it is too short for the view.
    """
    rule = preprocessing.view_rule
    if not videos:
        generator = torch.Generator().manual_seed(0)
        shape = (NOISE_VIEWS, rule.frames, rule.size, rule.size, 3)
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        noise[NOISE_VIEWS // 2 :] //= 8  # as dark as night
        return Views(source="noise, seed 0", names=(), fps=None, pixels=noise.numpy())
    names, rates, pixels = [], [], []
    for name, path in _found(videos):
        info = probe(path, colour_range=preprocessing.colour_range, rgb_frames=1)
        view = centre_view(rule, clip_id=str(path), num_frames=info.num_frames)
        frames = decode(path, indices=view.frame_indices, size=rule.frame_size, colour_range=preprocessing.colour_range)
        pixels.append(apply_view(frames, view, rule.size))
        names.append(name)
        rates.append(info.fps)
    known = [rate for rate in rates if rate > 0]
    fps = float(np.median(known)) if known else None
    return Views(source="real clips", names=tuple(names), fps=fps, pixels=np.stack(pixels))


def measure(run: Run, recogniser: nn.Module, pixels: Frames) -> Parity:
    """Compare a file's logits with the checkpoint's, view by view and several together.

    Args:
        run: the opened file.
        recogniser: of the checkpoint, in evaluation mode on the CPU.
        pixels: uint8 (N, T, S, S, 3).
    """
    with torch.inference_mode():
        wanted = np.concatenate([recogniser(torch.from_numpy(view[None])).numpy() for view in pixels])
    alone = np.concatenate([run(view[None]) for view in pixels])
    together = np.concatenate([run(pixels[start : start + TOGETHER]) for start in range(0, len(pixels), TOGETHER)])
    difference = float(max(np.abs(found - wanted).max() for found in (alone, together)))
    largest = float(np.abs(wanted).max())
    return Parity(largest_difference=difference, largest_logit=largest, relative=difference / largest)


def check_parity(parity: Parity, *, where: object) -> None:
    """Refuse a file that does not give the checkpoint's logits.

    Raises:
        ValueError: the difference is larger than rounding explains, or no number.
    """
    if not parity.relative <= LARGEST_RELATIVE:  # NaN too
        raise ValueError(
            f"{where}: the exported logits differ from the checkpoint's by {parity.largest_difference:.3g} of "
            f"{parity.largest_logit:.3g}, wanted at most {LARGEST_RELATIVE} of it: not written; try the other --format "
            "or another version of torch"
        )


def _found(videos: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Videos and the names they get, which say nothing of where the folder lies."""
    for root in videos:
        if not root.is_dir():
            yield root.name, root
            continue
        inside = videos_below(root)
        if not inside:
            raise ValueError(f"{root}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}); name another folder")
        for index in np.linspace(0, len(inside) - 1, min(CLIPS, len(inside))).round().astype(int):
            yield inside[index].relative_to(root).as_posix(), inside[index]

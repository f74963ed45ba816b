"""What less light would do to the models: test clips darkened by the physical dark model, and answered again.

The dark model acts on the frames after they are resized and before anything else: before the enhancer, as the camera
comes before it, and before the crop. That is the cheap place, since a network's frame has few pixels; two things
follow. The noise is that of a camera with the network's resolution: it is not averaged by the resize, as the noise of a
larger sensor would be. And it comes on top of the noise that the clip was filmed with. So a curve compares models under
the same pixels; it does not say at how many lux one of them fails.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pipeline.clips.clip_index import Clip
from pipeline.clips.dataset import CachePolicy, EvaluationViews, FrameSource, open_dark_frames
from pipeline.clips.low_light import darken, draw_low_light
from pipeline.clips.video import Frames
from pipeline.clips.views import apply_view
from pipeline.enhancers.enhanced_frames import enhance_pixels
from pipeline.inference.averaging import average
from pipeline.inference.loading import Loaded
from pipeline.training.metrics import bootstrap_top1, top_k_hits


def choose_clips(clips: Sequence[Clip], most: int, *, seed: int) -> list[int]:
    """Positions of at most so many clips, in order: one of each class in turn, as long as it has any.

    Args:
        clips: labelled; which of them are taken does not depend on their order.
        most: clips to choose.
        seed: another one chooses others.
    """
    drawn = sorted(range(len(clips)), key=lambda index: _digest(seed, "clip", clips[index].id))
    seen: Counter[int] = Counter()
    turns: list[tuple[int, int, int]] = []
    for position in drawn:
        turns.append((seen[clips[position].label], len(turns), position))
        seen[clips[position].label] += 1
    # Within a turn as drawn, so that no class comes before another.
    return sorted(position for _, _, position in sorted(turns)[:most])


def darkened(frames: Frames, exposure_ev: float, *, clip_id: str, seed: int) -> Frames:
    """A clip's frames with less light; camera and noise are a function of (seed, clip id), the same at every exposure.

    Args:
        frames: uint8 (T, H, W, 3).
        exposure_ev: stops of light added, below 0 for darker; 0 gives the frames as they are, without any noise.
        clip_id: the clip.
        seed: of cameras and noise.
    """
    if exposure_ev == 0:
        return frames
    camera = draw_low_light(_generator(seed, "camera", clip_id), exposure_ev)
    return darken(frames, camera, _generator(seed, "noise", clip_id))


def stress_curve(
    loaded: Mapping[str, Loaded],
    clips: Sequence[Clip],
    logits: Mapping[str, NDArray[np.float32]],
    videos: Path,
    *,
    views: Mapping[str, EvaluationViews],
    exposures: Sequence[float],
    most_clips: int,
    over: str,
    batch_size: int,
    resamples: int,
    seed: int,
    cache: CachePolicy,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Top-1 of each model at each exposure, on the same clips. Prints what it cost.

    Args:
        loaded: the checkpoints by model.
        clips: N labelled test clips, at least one.
        logits: by model, (N, K) of the clips as they are: the answers at 0 EV.
        videos: root that clip ids are relative to.
        views: of each model, as in the test.
        exposures: stops of light added; none gives an empty curve.
        most_clips: see `choose_clips`.
        over: logits or probabilities; what is averaged over the views.
        batch_size: views that pass a network together.
        resamples: of the bootstrap behind the 95 % intervals.
        seed: of the chosen clips, of cameras and noise, and of the resamples.
        cache: whether and where dark frames are kept.
        device: where to compute.

    Returns:
        For each exposure ev, n (clips), and by model top1, top1_low, top1_high.
    """
    if not exposures:
        return []
    positions = choose_clips(clips, most_clips, seed=seed)
    chosen = [clips[position] for position in positions]
    answers = {0.0: {model: values[positions] for model, values in logits.items()}}
    darker = [ev for ev in exposures if ev != 0]
    if darker:
        started = time.perf_counter()
        sources = _dark_sources(loaded, chosen, videos, cache)
        found = stress_logits(
            loaded,
            views,
            sources,
            chosen,
            exposures=darker,
            over=over,
            batch_size=batch_size,
            seed=seed,
            device=device,
        )
        answers |= {ev: {model: found[model][number] for model in loaded} for number, ev in enumerate(darker)}
        spent = time.perf_counter() - started
        print(f"{len(chosen)} of {len(clips)} clips at {len(darker)} darker exposures: {spent:.1f} s", flush=True)
    labels = np.array([clip.label for clip in chosen], np.int64)
    return [
        {
            "ev": ev,
            "n": len(chosen),
            **{
                model: bootstrap_top1(top_k_hits(values, labels, 1), resamples=resamples, seed=seed)
                for model, values in answers[ev].items()
            },
        }
        for ev in exposures
    ]


def stress_logits(
    loaded: Mapping[str, Loaded],
    views: Mapping[str, EvaluationViews],
    sources: Mapping[str, FrameSource],
    clips: Sequence[Clip],
    *,
    exposures: Sequence[float],
    over: str,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> dict[str, NDArray[np.float32]]:
    """Logits of darkened clips averaged over their views; by model, (exposures, N, K).

    A clip is decoded once for models that see the same frames of it, and darkened once at each exposure. The frames of
    a teacher that sees enhanced frames are enhanced from the darkened ones.

    Args:
        loaded: the checkpoints by model.
        views: of each model, as in the test.
        sources: of each model, dark frames at its frame size.
        clips: N of them, at least one.
        exposures: stops of light added, at least one.
        over: logits or probabilities; what is averaged over the views.
        batch_size: views that pass a network together.
        seed: of cameras and noise.
        device: where to compute.
    """
    found: dict[str, list[NDArray[np.float32]]] = {model: [] for model in loaded}
    for clip in tqdm(clips, desc="darken", unit="clip", disable=None):
        known: dict[object, list[Frames]] = {}
        for model, each in loaded.items():
            indices = tuple(sorted({index for view in views[model].of(clip) for index in view.frame_indices}))
            key = (each.preprocessing.view_rule.frame_size, each.preprocessing.colour_range, indices)
            if key not in known:
                frames = sources[model].frames(clip, indices)
                known[key] = [darkened(frames, ev, clip_id=clip.id, seed=seed) for ev in exposures]
            seen = _seen(each, views[model], clip, indices, known[key], device)
            answers = _answers(each, seen, batch_size, device)
            answers = answers.reshape(len(exposures), -1, answers.shape[-1])  # (E * V, K) -> (E, V, K)
            found[model].append(average(answers.transpose(0, 1), over=over).numpy())
    return {model: np.stack(rows, axis=1) for model, rows in found.items()}


def _dark_sources(
    loaded: Mapping[str, Loaded], clips: Sequence[Clip], videos: Path, cache: CachePolicy
) -> dict[str, FrameSource]:
    """Each model's dark frames; one source for models of the same pixels."""
    opened: dict[tuple[tuple[int, int], str], FrameSource] = {}
    sources = {}
    for model, each in loaded.items():
        key = size, colours = each.preprocessing.view_rule.frame_size, each.preprocessing.colour_range
        if key not in opened:
            opened[key] = open_dark_frames(clips, videos, frame_size=size, colour_range=colours, cache=cache)
        sources[model] = opened[key]
    return sources


def _seen(
    loaded: Loaded,
    views: EvaluationViews,
    clip: Clip,
    indices: Sequence[int],
    darker: Sequence[Frames],
    device: torch.device,
) -> Iterator[Frames]:
    """The pixels of each view at each exposure, exposure by exposure: uint8 (T, S, S, 3)."""
    pixels = loaded.preprocessing
    place = {index: position for position, index in enumerate(indices)}
    for frames in darker:
        if loaded.enhancer is not None and pixels.enhancer_on == "frame":
            frames = enhance_pixels(loaded.enhancer, frames, device=device)
        for view in views.of(clip):
            chosen = frames[[place[index] for index in view.frame_indices]]
            yield apply_view(chosen, view, pixels.view_rule.size)


@torch.no_grad()
def _answers(loaded: Loaded, seen: Iterator[Frames], batch_size: int, device: torch.device) -> Tensor:
    """Logits of views, (views, K), on the CPU."""
    rows: list[Tensor] = []
    batch: list[Frames] = []

    def empty() -> None:
        rows.append(loaded.recogniser(torch.from_numpy(np.stack(batch)).to(device)).float().cpu())
        batch.clear()

    for pixels in seen:
        batch.append(pixels)
        if len(batch) == batch_size:
            empty()
    if batch:
        empty()
    return torch.cat(rows)


def _digest(seed: int, purpose: str, clip_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{purpose}\0{clip_id}".encode(), digest_size=16).digest()


def _generator(seed: int, purpose: str, clip_id: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(seed, purpose, clip_id), "little")))

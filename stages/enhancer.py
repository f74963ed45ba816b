"""Train Zero-DCE on the run's own dark training frames, load weights, or take another method; show what it does."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from pipeline.clips.clip_index import Clip, of_subset, read_clips
from pipeline.clips.dataset import FrameSource, open_dark_frames
from pipeline.clips.files import replacing
from pipeline.clips.frame_cache import cache_policy
from pipeline.config import ComputeConfig, EnhancerConfig, ViewsConfig, plain
from pipeline.enhancers.build import build_enhancer
from pipeline.enhancers.enhanced_frames import enhance_pixels
from pipeline.enhancers.zero_dce import OFFICIAL_SHA256, ZeroDCE, load_official
from pipeline.enhancers.zero_reference import colour_constancy, zero_reference_loss
from pipeline.training.checkpoint import Record, load_state, save_checkpoint, save_state
from pipeline.training.work_folder import work_folder, work_root

STEPS_BETWEEN_SAVES = 50
HELD_OUT_EVERY = 10
"""Every tenth training clip is not trained on, but shows what the enhancer does."""
SHOWN = 8
MEASURED = 256
"""Frames, one a clip at most, that the enhanced frames' mean and std are taken over."""

LEAST_MOVE = 1 / 3
"""Share of the way to the exposure target that held-out frames have to move."""
TRAINED_HERE = "trained here"
LARGEST_CAST = 2.0
"""Largest colour loss against the dark frames', both scaled to mean 1: brightening alone changes nothing in it."""


def run(
    clip_index: Path,
    videos: Path,
    checkpoint: Path,
    contact_sheet: Path,
    figures: Path,
    *,
    config: EnhancerConfig,
    views: ViewsConfig,
    compute: ComputeConfig,
    device: torch.device,
    fresh: bool = False,
) -> None:
    """Write the enhancer's checkpoint, a picture of what it does and its figures on held-out frames.

    Raises:
        ValueError: the trained enhancer does not brighten held-out frames enough, or tints them.
    """
    clips = of_subset(read_clips(clip_index), "train")
    held_out, trained_on = clips[::HELD_OUT_EVERY], [c for i, c in enumerate(clips) if i % HELD_OUT_EVERY] or clips
    used = {name: value for name, value in plain(config).items() if name != "on"}
    settings = {"enhancer": used, "device": str(device), "frame_size": views.frame_size, "range": views.colour_range}
    inputs = [clip_index] if config.weights is None else [clip_index, Path(config.weights)]
    with work_folder("enhancer", out=checkpoint, settings=settings, inputs=inputs, fresh=fresh) as work:
        source = open_dark_frames(
            clips,
            videos,
            frame_size=views.frame_size,
            colour_range=views.colour_range,
            cache=cache_policy(work_root(checkpoint), mode=compute.cache, cache_gb=compute.cache_gb),
        )
        arguments: dict[str, Any] = {"name": config.name}
        enhancer: nn.Module
        if config.name != "zero_dce":
            if config.name == "gamma":
                arguments |= {"gamma": config.gamma, "gamma_table": config.gamma_table}
            enhancer, origin = build_enhancer(**arguments), "has no weights"
        elif config.weights is None:
            enhancer = train(source, trained_on, config, device=device, state_file=work / "state.pt")
            origin = TRAINED_HERE
        else:
            enhancer, origin = load_official(Path(config.weights))
            if origin != OFFICIAL_SHA256:
                print(f"warning: {config.weights}: fits Zero-DCE, but is not the authors' published file", flush=True)
        enhancer.to(device)
        dark = np.concatenate([_middle_frame(source, clip) for clip in held_out])
        found = measure(enhancer, dark, target=config.exposure_target, device=device)
        if config.name != "none":
            _judge(found, trained_here=origin == TRAINED_HERE)
        found |= {"origin": origin, "held_out_frames": len(dark)}
        found |= _statistics(enhancer, source, clips, device=device)
        _show(contact_sheet, dark, enhance_pixels(enhancer, dark, device=device))
        with replacing(figures) as partial:
            partial.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        recorded = used | {"weights": None if config.weights is None else origin}
        save_checkpoint(
            checkpoint,
            enhancer.state_dict(),
            Record(
                kind="enhancer",
                class_names=(),
                model=arguments,
                preprocessing=None,
                settings=recorded,
                metrics=found,
            ),
        )
    print(f"enhancer: mean {found['dark_mean']:.3f} -> {found['enhanced_mean']:.3f} on {len(dark)} held-out frames")


def train(
    source: FrameSource, clips: Sequence[Clip], config: EnhancerConfig, *, device: torch.device, state_file: Path
) -> ZeroDCE:
    """Train on random patches with the four zero-reference losses, from the last saved step on."""
    enhancer = ZeroDCE(seed=config.seed).to(device).train()
    optimizer = torch.optim.Adam(enhancer.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    state = load_state(state_file)
    first = 0
    if state is not None:
        enhancer.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"enhancer: goes on after step {first} of {config.steps}", flush=True)
    progress = tqdm(range(first, config.steps), desc="enhancer", initial=first, total=config.steps, disable=None)
    for step in progress:
        patches = draw_patches(source, clips, config, step=step).to(device)
        enhanced, maps = enhancer.enhance_with_maps(patches)
        loss = zero_reference_loss(
            patches,
            enhanced,
            maps,
            wanted_exposure=config.exposure_target,
            exposure_patch=config.exposure_patch,
            spatial_weight=config.spatial_weight,
            exposure_weight=config.exposure_weight,
            colour_weight=config.colour_weight,
            variation_weight=config.variation_weight,
        )
        if not torch.isfinite(loss):
            raise ValueError(f"enhancer: the loss is {float(loss)} at step {step}; lower enhancer.lr and start again")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(enhancer.parameters(), config.grad_clip)
        optimizer.step()
        if (step + 1) % STEPS_BETWEEN_SAVES == 0 or step + 1 == config.steps:
            save_state(
                state_file,
                {"step": step + 1, "model": enhancer.state_dict(), "optimizer": optimizer.state_dict()},
            )
    return enhancer


def draw_patches(source: FrameSource, clips: Sequence[Clip], config: EnhancerConfig, *, step: int) -> Tensor:
    """Patches of a step, float32 (N, 3, P, P) in [0, 1]: a function of (seed, step)."""
    rng = np.random.Generator(np.random.Philox(key=[config.seed, step]))
    patches = []
    for _ in range(config.batch_size):
        clip = clips[int(rng.integers(len(clips)))]
        frame = source.frames(clip, [int(rng.integers(clip.num_frames))])[0]
        side = min(config.patch_size, *frame.shape[:2])
        top, left = (int(rng.integers(length - side + 1)) for length in frame.shape[:2])
        patches.append(frame[top : top + side, left : left + side])
    return _to_tensor(np.stack(patches))


@torch.no_grad()
def measure(enhancer: nn.Module, dark: np.ndarray, *, target: float, device: torch.device) -> dict[str, Any]:
    """What the enhancer does to frames, uint8 (N, H, W, 3).

    Returns:
        dark_mean and enhanced_mean in [0, 1]; move: share of the way from one to the exposure target;
        colour_cast: colour loss of the enhanced frames over that of the dark ones, each frame scaled to mean 1.
    """
    before = _to_tensor(dark)
    after = _to_tensor(enhance_pixels(enhancer, dark, device=device))
    low, high = float(before.mean()), float(after.mean())
    cast = [
        float(colour_constancy(frames / frames.mean((1, 2, 3), keepdim=True).clamp_min(1e-3)))
        for frames in (before, after)
    ]
    return {
        "dark_mean": low,
        "enhanced_mean": high,
        "move": (high - low) / (target - low) if low < target else 1.0,
        "colour_cast": cast[1] / max(cast[0], 1e-6),
    }


def _judge(found: dict[str, Any], *, trained_here: bool) -> None:
    """Refuse a trained enhancer that failed; given weights and other methods are the user's choice: a warning."""
    problems = []
    if found["move"] < LEAST_MOVE:
        problems.append(
            f"held-out frames move {found['move']:.3f} of the way to the target, wanted {LEAST_MOVE:.3f} or more"
        )
    if found["colour_cast"] > LARGEST_CAST:
        problems.append(
            f"their colour loss grows {found['colour_cast']:.2f} times, wanted at most {LARGEST_CAST} times"
        )
    if problems and trained_here:
        raise ValueError(
            f"enhancer: {'; '.join(problems)}; raise enhancer.steps or enhancer.lr, or look at the losses' "
            "weights in params.yaml"
        )
    for problem in problems:
        print(f"warning: enhancer: {problem}", flush=True)


def _statistics(
    enhancer: nn.Module, source: FrameSource, clips: Sequence[Clip], *, device: torch.device
) -> dict[str, list[float]]:
    """Mean and std of R, G, B in [0, 1] over the middle frames of evenly spaced training clips, enhanced."""
    chosen = clips[:: -(-len(clips) // MEASURED)]
    frames = np.concatenate([_middle_frame(source, clip) for clip in chosen])
    pixels = enhance_pixels(enhancer, frames, device=device).reshape(-1, 3).astype(np.float64) / 255.0
    return {"mean": pixels.mean(axis=0).tolist(), "std": np.maximum(pixels.std(axis=0), 1e-3).tolist()}


def _middle_frame(source: FrameSource, clip: Clip) -> np.ndarray:
    return source.frames(clip, [clip.num_frames // 2])


def _to_tensor(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255.0  # (N, H, W, C) -> (N, C, H, W)


def _show(path: Path, dark: np.ndarray, enhanced: np.ndarray) -> None:
    """Write raw frames above enhanced ones as a PNG."""
    from torchvision.utils import make_grid, save_image  # takes as long as importing torch

    chosen = np.linspace(0, len(dark) - 1, min(SHOWN, len(dark))).astype(int)
    grid = make_grid(_to_tensor(np.concatenate([dark[chosen], enhanced[chosen]])), nrow=len(chosen), padding=2)
    with replacing(path) as partial:
        save_image(grid, partial, format="png")

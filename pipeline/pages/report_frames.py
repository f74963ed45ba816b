"""Frames of the clips that the student is surest of: right and wrong, dark and enhanced."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.clips.clip_index import Clip
from pipeline.clips.video import Frames, decode
from pipeline.enhancers.enhanced_frames import enhance_pixels
from pipeline.pages.blocks import Block, Picture, Pictures, Text
from pipeline.pages.page import picture_of
from pipeline.pages.run_files import Answer, RunFiles
from pipeline.training.loaded_enhancer import load_enhancer

SHOWN = 4
"""Clips of each kind."""
MOMENTS = (1 / 6, 1 / 2, 5 / 6)
"""Of a clip's length, at which frames are taken."""
STRIP_WIDTH = 328
"""Pixels on the page: what a phone has."""
LARGEST_SIDE = 256
"""Of a frame where the run does not tell at which size the enhancer works."""

Enhance = Callable[[Frames], Frames]


def frames(run: RunFiles, videos: Path | None) -> Iterator[Block]:
    """Strips of three frames of the surest right and the surest wrong answers.

    Args:
        run: its labelled answers, clips, and the enhancer's checkpoint where it is there.
        videos: root that clip ids are relative to; None shows nothing.
    """
    clips = {clip.id: clip for clip in run.clips if clip.subset == "test"}
    answers = [answer for answer in run.answers if answer.id in clips]
    if videos is None or not answers:
        return
    enhance = _enhancer(run)
    words = "as they are" if enhance is None else "as they are, then as the enhancer gives them"
    yield Text(
        text=f"The clips whose answer the student is surest of, each by frames early, in the middle and late: {words}."
    )
    for title, right in (("Right and sure", True), ("Wrong and sure", False)):
        chosen = surest([answer for answer in answers if answer.right("student") is right], SHOWN)
        if chosen:
            shown = [_picture(answer, clips[answer.id], run, videos, enhance) for answer in chosen]
            yield Pictures(title=title, pictures=shown)


def surest(answers: Sequence[Answer], count: int) -> list[Answer]:
    """The student's surest answers, of as many classes as there are before a second one of any."""
    ordered = sorted(answers, key=lambda answer: (-answer.probabilities["student"], answer.id))
    chosen: list[Answer] = []
    while ordered and len(chosen) < count:
        seen: set[str] = set()
        for answer in list(ordered):
            if len(chosen) < count and answer.class_name not in seen:
                seen.add(answer.class_name)
                chosen.append(answer)
                ordered.remove(answer)
    return chosen


def _enhancer(run: RunFiles) -> Enhance | None:
    """The run's enhancer on the CPU; None without a checkpoint, or where it does nothing."""
    path = run.folder / "enhancer.safetensors"
    if not path.is_file():
        return None
    enhancer, record = load_enhancer(path)
    if record.model["name"] == "none":
        return None
    return lambda dark: enhance_pixels(enhancer, dark, device=torch.device("cpu"))


def _picture(answer: Answer, clip: Clip, run: RunFiles, videos: Path, enhance: Enhance | None) -> Picture:
    pixels = run.card.get("preprocessing") or {}
    height, width = (pixels.get("view_rule") or {}).get("frame_size") or _fitting(clip)
    dark = decode(
        videos / clip.id,
        indices=[int(moment * clip.num_frames) for moment in MOMENTS],
        size=(height, width),
        colour_range=pixels.get("colour_range", "auto"),
    )
    sources = [(_strip(dark), f"{clip.id}, three frames as they are")]
    if enhance is not None:
        sources.append((_strip(enhance(dark)), f"{clip.id}, the same frames enhanced"))
    told = "; ".join(
        f"{model} {answer.answers[model]} ({answer.probabilities[model]:.2f})"
        for model in ("student", "teacher", "baseline")
    )
    caption = f"{clip.id}: {clip.class_name}, mean luma {clip.mean_luma:.0f}. {told}"
    return Picture(sources=sources, caption=caption, width=STRIP_WIDTH)


def _fitting(clip: Clip) -> tuple[int, int]:
    scale = min(1.0, LARGEST_SIDE / max(clip.width, clip.height))
    return max(1, round(clip.height * scale)), max(1, round(clip.width * scale))


def _strip(frames: Frames) -> str:
    """Frames side by side, uint8 (T, H, W, 3), as one picture."""
    return picture_of(np.concatenate(list(frames), axis=1))

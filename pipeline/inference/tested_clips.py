"""A loaded checkpoint's logits of test clips: the pixel path from its record, the views from the test's protocol."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.clips.clip_index import Clip
from pipeline.clips.dataset import Batches, CachePolicy, EvaluationViews, ViewDataset, open_dark_frames
from pipeline.enhancers.enhanced_frames import open_teacher_frames, reading_workers
from pipeline.inference.averaging import average
from pipeline.inference.loading import Loaded
from pipeline.training.loop import predict


def protocol_views(loaded: Loaded, *, clips: int, crops: str) -> EvaluationViews:
    """The views of a test clip.

    Args:
        loaded: the checkpoint, whose record says how clips are seen.
        clips: starts in time, evenly spaced.
        crops: centre, five or ten.

    Raises:
        ValueError: mirrored crops of a model that never saw a mirrored clip.
    """
    rule = loaded.preprocessing.view_rule
    if crops == "ten" and not rule.flip:
        raise ValueError("evaluate.crops: ten mirrors clips, the model was trained with views.flip: false; set five")
    return EvaluationViews(rule=rule, clips=clips, crops=crops)


def clip_logits(
    loaded: Loaded,
    clips: Sequence[Clip],
    videos: Path,
    *,
    views: EvaluationViews,
    over: str,
    batch_size: int,
    workers: int,
    cache: CachePolicy,
    device: torch.device,
) -> NDArray[np.float32]:
    """Logits of clips averaged over their views, (N, K); all about the pixels comes from the checkpoint.

    Args:
        loaded: the checkpoint.
        clips: N of them, at least one.
        videos: root that clip ids are relative to.
        views: see `protocol_views`.
        over: logits or probabilities; what is averaged.
        batch_size: views that pass the network together.
        workers: reading processes; 0 reads in this one. Changes no result.
        cache: whether and where frames are kept. Changes no result.
        device: where to compute.
    """
    pixels = loaded.preprocessing
    size, colours = pixels.view_rule.frame_size, pixels.colour_range
    if loaded.enhancer is None:
        source = open_dark_frames(clips, videos, frame_size=size, colour_range=colours, cache=cache)
    else:
        source = open_teacher_frames(
            clips,
            videos,
            loaded.enhancer,
            enhancer_on=pixels.enhancer_on,
            frame_size=size,
            colour_range=colours,
            cache=cache,
            device=device,
        )
    dataset = ViewDataset(clips, source=source, view_of=views, size=pixels.view_rule.size)
    batches = Batches(dataset, batch_size=batch_size, seed=None, workers=reading_workers(source, workers))
    count = len(views.of(clips[0]))
    answers = torch.stack([predict(loaded.recogniser, batches, device=device, epoch=view) for view in range(count)])
    return average(answers, over=over).numpy()

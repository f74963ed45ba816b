"""Pass V views of every training clip through the frozen teacher, and store its logits with the views."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pipeline.clips.clip_index import Clip, class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batch, DrawnViews, ViewDataset, load_keys, open_dark_frames
from pipeline.clips.files import sha256_of
from pipeline.clips.views import pixel_crc32
from pipeline.config import ComputeConfig, LogitsConfig
from pipeline.distillation.fingerprint import fingerprint, provenance
from pipeline.distillation.logit_store import Block, BlockRange, ClipTable, StoreSpec, block_ranges
from pipeline.distillation.logit_store_writer import ShardWriter, publish
from pipeline.enhancers.enhanced_frames import open_teacher_frames, reading_workers
from pipeline.inference.loading import load_recogniser
from pipeline.models.recogniser import Recogniser
from pipeline.training.work_folder import cache_policy, work_folder, work_root


@dataclass(frozen=True, kw_only=True)
class Passes:
    """The teacher's forward passes, one a block."""

    bright: ViewDataset
    """Views as the teacher sees them."""
    dark: ViewDataset
    """The same views as the student sees them, whose crc32 is stored; `bright` itself where views are enhanced."""
    views: DrawnViews
    teacher: Recogniser
    workers: int
    device: torch.device

    @torch.no_grad()
    def blocks(self, spans: Sequence[BlockRange]) -> Iterator[tuple[int, Block]]:
        """Number and rows of each block."""
        keys = [[(span.view, index) for index in range(span.start, span.stop)] for span in spans]
        batch: Batch
        for span, batch in zip(spans, load_keys(self.bright, keys, workers=self.workers), strict=True):
            logits = self.teacher(batch.pixels.to(self.device)).float().cpu().numpy()
            indices = range(span.start, span.stop)
            seen = [self.views(self.bright.clips[index], span.view) for index in indices]
            if self.dark is self.bright:
                dark = list(batch.pixels.numpy())
            else:
                dark = [self.dark[(span.view, index)].pixels.numpy() for index in indices]
            block = Block(
                logits=logits,
                frame_indices=np.array([view.frame_indices for view in seen], np.int32),
                crop=np.array([view.crop for view in seen], np.int32),
                flip=np.array([view.flip for view in seen], np.bool_),
                pixel_crc32=np.array([pixel_crc32(pixels) for pixels in dark], np.uint32),
            )
            yield span.number, block


def run(
    clip_index: Path,
    videos: Path,
    teacher_checkpoint: Path,
    logit_store: Path,
    *,
    config: LogitsConfig,
    mode: str,
    compute: ComputeConfig,
    device: torch.device,
    fresh: bool = False,
) -> None:
    """Write the store; finished blocks of a stopped run are kept, one of them is checked against a new pass.

    Raises:
        ValueError: `fixed` with more than one view, kept rows that the teacher no longer gives, or a teacher that
            knows too little of its own training clips.
    """
    if mode == "fixed" and config.views != 1:
        raise ValueError(f"logits.views: found {config.views}, wanted 1: views.mode: fixed has one view a clip")
    clips = of_subset(read_clips(clip_index), "train")
    teacher = load_recogniser(teacher_checkpoint, device=device, kind="teacher")
    names = class_names_in(clips)
    if teacher.record.class_names != names:
        raise ValueError(
            f"{teacher_checkpoint}: found classes {teacher.record.class_names}, wanted those of {clip_index}: {names}; "
            "train the teacher again"
        )
    rule, pixels = teacher.preprocessing.view_rule, teacher.preprocessing
    spec = StoreSpec(
        class_names=names,
        clips=_clip_table(clips),
        num_views=config.views,
        frames_per_view=rule.frames,
        fingerprint=fingerprint(
            teacher_sha256=sha256_of(teacher_checkpoint),
            class_names=names,
            rule=rule,
            mode=mode,
            colour_range=pixels.colour_range,
            enhancer_on=pixels.enhancer_on,
        ),
        provenance=provenance(num_views=config.views, split_sha256=sha256_of(clip_index)),
    )
    # Not V: more views add to the kept rows.
    settings = {"batch_size": config.batch_size, "mode": mode, "device": str(device)}
    inputs = [clip_index, teacher_checkpoint]
    with work_folder("logits", out=logit_store, settings=settings, inputs=inputs, fresh=fresh) as work:
        cache = cache_policy(work_root(logit_store), mode=compute.cache, cache_gb=compute.cache_gb)
        source = open_teacher_frames(
            clips,
            videos,
            teacher.enhancer,
            enhancer_on=pixels.enhancer_on,
            frame_size=rule.frame_size,
            colour_range=pixels.colour_range,
            cache=cache,
            device=device,
        )
        views = DrawnViews(rule=rule, mode=mode, num_views=None)
        bright = ViewDataset(clips, source=source, view_of=views, size=rule.size)
        dark = bright
        if pixels.enhancer_on == "frame":
            as_filmed = open_dark_frames(
                clips, videos, frame_size=rule.frame_size, colour_range=pixels.colour_range, cache=cache
            )
            dark = ViewDataset(clips, source=as_filmed, view_of=views, size=rule.size)
        passes = Passes(
            bright=bright,
            dark=dark,
            views=views,
            teacher=teacher.recogniser,
            workers=reading_workers(source, compute.workers),
            device=device,
        )
        shard = work / "shard-0.h5"
        _fill(shard, spec, config.batch_size, passes)
        wanted = believable_top1(len(names)) if config.minimum_top1 is None else config.minimum_top1
        summary = publish(logit_store, spec, [shard], minimum_top1=wanted)
    print(f"logits: {spec.num_rows} rows, top-1 on training views {summary.top1:.3f} (wanted {wanted:.3f} or more)")


def believable_top1(num_classes: int) -> float:
    """Top-1 over training views below which a teacher is not believed: twice chance, or half way from chance to 1.

    The smaller of the two: with two classes twice chance would ask for a teacher without a single error.
    """
    return min(2 / num_classes, (1 + 1 / num_classes) / 2)


def _fill(shard: Path, spec: StoreSpec, batch_size: int, passes: Passes) -> None:
    """Compute the blocks that the shard does not hold yet."""
    with ShardWriter(shard, spec, batch_size) as writer:
        spans = block_ranges(spec, batch_size)
        kept = [span for span in spans if span.number in writer.done]
        if kept:
            ((_, found),) = passes.blocks(kept[:1])
            if not _same(found, writer.read(kept[0].number)):
                raise ValueError(
                    f"{shard}: the first kept block does not come out the same again; the machine or its libraries "
                    "changed. Start anew with `dlkdd logits --fresh`"
                )
            print(f"logits: goes on with {len(kept)} of {len(spans)} blocks kept", flush=True)
        missing = [span for span in spans if span.number not in writer.done]
        blocks = passes.blocks(missing)
        for number, block in tqdm(blocks, desc="logits", total=len(missing), unit="block", disable=None):
            writer.write(number, block)


def _same(found: Block, kept: Block) -> bool:
    return all(np.array_equal(column, kept.columns()[name]) for name, column in found.columns().items())


def _clip_table(clips: Sequence[Clip]) -> ClipTable:
    return ClipTable(
        ids=tuple(clip.id for clip in clips),
        labels=np.array([clip.label for clip in clips], np.int32),
        num_frames=np.array([clip.num_frames for clip in clips], np.int32),
        sha256=tuple(clip.sha256 for clip in clips),
    )

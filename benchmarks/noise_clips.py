"""Training clips of noise in memory, with a logit store of noise that fits them: what benchmarks of training run on."""

from dataclasses import dataclass

import numpy as np

from pipeline.clips.clip_index import Clip
from pipeline.clips.dataset import DrawnViews
from pipeline.clips.views import ViewRule, apply_view, pixel_crc32
from pipeline.distillation.logit_store import Block, ClipTable, StoreSpec, block_ranges
from pipeline.distillation.logit_store_writer import ShardWriter, publish

CLASSES = 11


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is trained on."""

    model: str
    batch: int
    frames: int
    frame_size: tuple[int, int]
    side: int
    steps: int = 1
    """An epoch."""

    @property
    def rule(self):
        """Views as the paper's, at this size."""
        return ViewRule(
            frames=self.frames,
            sampling="consecutive",
            stride=1,
            jitter=1.0,
            loop=True,
            frame_size=self.frame_size,
            size=self.side,
            scales=(1.0, 0.875, 0.75, 0.66),
            positions="fixed",
            flip=True,
            seed=0,
        )


class Noise:
    """One noisy video in memory for all clips."""

    def __init__(self, size):
        rng = np.random.default_rng(0)
        self.video = rng.integers(0, 40, (size.frames + 8, *size.frame_size, 3), dtype=np.uint8)

    def frames(self, clip, indices, crop=None):
        """See FrameSource."""
        top, left, height, width = crop or (0, 0, *self.video.shape[1:3])
        cut = self.video[:, top : top + height, left : left + width]
        return np.array(cut if indices is None else cut[list(indices)])


def make_clips(count):
    """Clips of as many frames as `Noise` gives, with ids as data sets have them."""
    return [
        Clip(
            id=f"class_{number * CLASSES // count:03}/video_{number:07}.mp4",
            label=number * CLASSES // count,
            class_name=f"class {number * CLASSES // count}",
            subset="train",
            scene="",
            num_frames=12,
            fps=30.0,
            width=0,
            height=0,
            rotation=0,
            pix_fmt="yuv420p",
            colour_range="tv",
            mean_luma=0.0,
            dark_share=0.0,
            luma_crc32=0,
            sha256=f"{number:064x}",
        )
        for number in range(count)
    ]


def make_store(path, clips, size, views):
    """A store of noise for these clips, with the views and pixels that the student will see."""
    spec = StoreSpec(
        class_names=tuple(f"class {number}" for number in range(CLASSES)),
        clips=ClipTable(
            ids=tuple(clip.id for clip in clips),
            labels=np.array([clip.label for clip in clips], np.int32),
            num_frames=np.array([clip.num_frames for clip in clips], np.int32),
            sha256=tuple(clip.sha256 for clip in clips),
        ),
        num_views=views,
        frames_per_view=size.frames,
        fingerprint={"teacher_sha256": "0" * 64},
        provenance={},
    )
    drawn = DrawnViews(rule=size.rule, mode="consistent", num_views=None)
    source, rng = Noise(size), np.random.default_rng(0)
    shard = path.with_name("shard-0.h5")
    with ShardWriter(shard, spec, 100) as writer:
        for span in block_ranges(spec, 100):
            seen = [drawn(clip, span.view) for clip in clips[span.start : span.stop]]
            pixels = [apply_view(source.frames(None, view.frame_indices), view, size.side) for view in seen]
            block = Block(
                logits=rng.standard_normal((len(seen), CLASSES), dtype=np.float32),
                frame_indices=np.array([view.frame_indices for view in seen], np.int32),
                crop=np.array([view.crop for view in seen], np.int32),
                flip=np.array([view.flip for view in seen], np.bool_),
                pixel_crc32=np.array([pixel_crc32(each) for each in pixels], np.uint32),
            )
            writer.write(span.number, block)
    publish(path, spec, [shard], minimum_top1=0.0)
    shard.unlink()

"""Pass V views of every training clip through the frozen teacher, and store its logits with the views."""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pipeline.clips.clip_index import Clip, class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batch, CachePolicy, DrawnViews, ViewDataset, load_keys, open_dark_frames
from pipeline.clips.files import sha256_of
from pipeline.clips.frame_cache import cache_policy
from pipeline.clips.views import pixel_crc32
from pipeline.config import ComputeConfig, LogitsConfig
from pipeline.distillation.fingerprint import fingerprint, provenance
from pipeline.distillation.logit_store import Block, BlockRange, ClipTable, StoreSpec, block_ranges
from pipeline.distillation.logit_store_file import telling_hdf5_full
from pipeline.distillation.logit_store_shards import Shard
from pipeline.distillation.logit_store_size import estimate_bytes
from pipeline.distillation.logit_store_writer import ShardWriter, publish
from pipeline.enhancers.enhanced_frames import open_teacher_frames, reading_workers
from pipeline.inference.loading import Loaded, load_recogniser
from pipeline.models.recogniser import Recogniser
from pipeline.training.distributed import Ranks, joined, wait_for_writers
from pipeline.training.precision import check_precision
from pipeline.training.work_folder import work_folder, work_key, work_root


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


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be computed, from the stage's inputs."""

    clips: list[Clip]
    """The training clips."""
    videos: Path
    """Root that clip ids are relative to."""
    teacher: Loaded
    mode: str
    """How views are drawn: consistent, fixed or independent."""
    spec: StoreSpec

    def open(
        self, clips: Sequence[Clip], *, cache: CachePolicy, workers: int, device: torch.device, first: int = 0
    ) -> Passes:
        """Passes over some of the clips.

        Args:
            clips: which; a block's positions count in them.
            cache: whether and where frames are kept.
            workers: processes that read clips.
            device: where the teacher is.
            first: position of the clip whose frames are enhanced first, where frames are enhanced beforehand.
        """
        rule, pixels = self.teacher.preprocessing.view_rule, self.teacher.preprocessing
        source = open_teacher_frames(
            [*clips[first:], *clips[:first]],
            self.videos,
            self.teacher.enhancer,
            enhancer_on=pixels.enhancer_on,
            frame_size=rule.frame_size,
            colour_range=pixels.colour_range,
            cache=cache,
            device=device,
        )
        # With `independent` the student draws views of its own, from another seed than those stored here.
        mode = "fixed" if self.mode == "fixed" else "consistent"
        views = DrawnViews(rule=rule, mode=mode, num_views=None)
        bright = ViewDataset(clips, source=source, view_of=views, size=rule.size)
        dark = bright
        if pixels.enhancer_on == "frame":
            as_filmed = open_dark_frames(
                clips, self.videos, frame_size=rule.frame_size, colour_range=pixels.colour_range, cache=cache
            )
            dark = ViewDataset(clips, source=as_filmed, view_of=views, size=rule.size)
        return Passes(
            bright=bright,
            dark=dark,
            views=views,
            teacher=self.teacher.recogniser,
            workers=reading_workers(source, workers),
            device=device,
        )


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
    """Write the store; finished blocks of a stopped run are kept, one of each shard is checked against a new pass.

    Where this process is one of several, each computes its part into its own shard, and the first one publishes.

    Raises:
        ValueError: `fixed` with more than one view, kept rows that the teacher no longer gives, a teacher that
            knows too little of its own training clips, a machine that computes wrongly in this precision, or one
            without the work folder of the first.
    """
    with joined(device) as ranks:
        job = _read_job(
            clip_index, videos, teacher_checkpoint, config=config, mode=mode, compute=compute, device=device
        )
        inputs, settings = [clip_index, teacher_checkpoint], _settings(config, mode, compute, device)
        with _shared_folder(ranks, logit_store, settings=settings, inputs=inputs, fresh=fresh) as work:
            passes = job.open(
                job.clips,
                cache=cache_policy(work_root(logit_store), mode=compute.cache, cache_gb=compute.cache_gb),
                workers=compute.workers,
                device=device,
                # Each rank begins elsewhere and finds what the others have enhanced.
                first=len(job.clips) * ranks.rank // ranks.size,
            )
            _fill(work, job.spec, config.batch_size, passes, ranks)
            ranks.wait()
            if not ranks.first:
                return
            names = job.spec.class_names
            wanted = believable_top1(len(names)) if config.minimum_top1 is None else config.minimum_top1
            summary = publish(logit_store, job.spec, _shards(work), minimum_top1=wanted)
    print(f"logits: {job.spec.num_rows} rows, top-1 on training views {summary.top1:.3f} (wanted {wanted:.3f} or more)")


def dry_run(
    clip_index: Path,
    videos: Path,
    teacher_checkpoint: Path,
    logit_store: Path,
    *,
    config: LogitsConfig,
    mode: str,
    compute: ComputeConfig,
    device: torch.device,
    processes: int,
) -> None:
    """Print what `run` would compute, how large the store gets and about how long that takes; keep nothing.

    Raises:
        ValueError: what `run` refuses before its first pass.
        OSError: a stage is writing the shards.
    """
    job = _read_job(clip_index, videos, teacher_checkpoint, config=config, mode=mode, compute=compute, device=device)
    work = work_root(logit_store) / "logits"
    key_file = work / "key"
    key = work_key("logits", settings=_settings(config, mode, compute, device), inputs=[clip_index, teacher_checkpoint])
    going_on = key_file.is_file() and key_file.read_text(encoding="utf-8") == key
    shards = _kept(_shards(work), job.spec, config.batch_size) if going_on else {}
    done = set().union(*shards.values())
    spans = block_ranges(job.spec, config.batch_size)
    missing = [span for span in spans if span.number not in done]
    rows = sum(span.stop - span.start for span in missing)
    sizes = f"{len(job.clips)} clips x {config.views} views, {len(job.spec.class_names)} classes"
    print(f"rows: {job.spec.num_rows} ({sizes}, {job.spec.frames_per_view} frames a view)")
    print(f"store: about {estimate_bytes(job.spec)} bytes in {logit_store}")
    print(f"kept: {job.spec.num_rows - rows} rows in {len(shards)} shards of {work}")
    if not missing:
        print("time: every row is kept, the store is only written out")
        return
    first, later = _time_block(job, missing[0], compute=compute, device=device)
    new = sum(span.view == 0 for span in missing)  # clips whose frames nobody has read yet
    seconds = (new * first + (len(missing) - new) * later) / processes
    print(
        f"time: about {timedelta(seconds=round(seconds))} for {rows} rows, from one block of "
        f"{missing[0].stop - missing[0].start} rows in {later:.3f} s (with its frames read the first time {first:.3f} "
        f"s), {processes} {'process' if processes == 1 else 'processes that do not slow each other down'}"
    )


def believable_top1(num_classes: int) -> float:
    """Top-1 over training views below which a teacher is not believed: twice chance, or half way from chance to 1.

    The smaller of the two: with two classes twice chance would ask for a teacher without a single error.
    """
    return min(2 / num_classes, (1 + 1 / num_classes) / 2)


def _read_job(
    clip_index: Path,
    videos: Path,
    teacher_checkpoint: Path,
    *,
    config: LogitsConfig,
    mode: str,
    compute: ComputeConfig,
    device: torch.device,
) -> Job:
    if mode == "fixed" and config.views != 1:
        raise ValueError(f"logits.views: found {config.views}, wanted 1: views.mode: fixed has one view a clip")
    clips = of_subset(read_clips(clip_index), "train")
    check_precision(device, compute.precision)
    teacher = load_recogniser(teacher_checkpoint, device=device, kind="teacher", precision=compute.precision)
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
            precision=compute.precision,
        ),
        # The rows' last bits depend on the batches that they were computed in: `dlkdd store verify` needs to know.
        provenance=provenance(num_views=config.views, split_sha256=sha256_of(clip_index))
        | {"batch_size": config.batch_size},
    )
    return Job(clips=clips, videos=videos, teacher=teacher, mode=mode, spec=spec)


def _settings(config: LogitsConfig, mode: str, compute: ComputeConfig, device: torch.device) -> dict[str, object]:
    """What rows depend on. Not V: more views add to the kept rows. Not the number of processes either."""
    return {
        "batch_size": config.batch_size,
        "mode": mode,
        "device": str(device),
        "precision": compute.precision,
    }


@contextlib.contextmanager
def _shared_folder(
    ranks: Ranks, logit_store: Path, *, settings: dict[str, object], inputs: Sequence[Path], fresh: bool
) -> Iterator[Path]:
    """The work folder, held by the first rank; the others enter once it is theirs and nobody writes in it."""
    if not ranks.first:
        ranks.wait()
        work = work_root(logit_store) / "logits"
        if not (work / "key").is_file():
            raise ValueError(
                f"{work}: process {ranks.rank} of {ranks.size} does not find the folder of process 0, wanted one that "
                "all machines share; set $DLKDD_WORK to such a one"
            )
        yield work
        return
    with work_folder("logits", out=logit_store, settings=settings, inputs=inputs, fresh=fresh) as work:
        wait_for_writers(_shards(work))
        ranks.wait()
        yield work


def _shards(work: Path) -> list[Path]:
    """Shards of all ranks, also of those that an earlier run had more."""
    return sorted(work.glob("shard-*.h5"))


def _fill(work: Path, spec: StoreSpec, batch_size: int, passes: Passes, ranks: Ranks) -> None:
    """Compute this rank's part of the blocks that no shard holds yet."""
    kept = _kept(_shards(work), spec, batch_size)
    for shard in list(kept)[ranks.rank :: ranks.size]:
        _check_first(shard, kept[shard], spec, batch_size, passes)
    # Nobody writes before all have read: so all see the same blocks missing, and no block is computed twice.
    ranks.wait()
    spans, done = block_ranges(spec, batch_size), set().union(*kept.values())
    if done and ranks.first:
        print(f"logits: goes on with {len(done)} of {len(spans)} blocks kept", flush=True)
    missing = [span for span in spans if span.number not in done][ranks.rank :: ranks.size]
    if not missing:
        return
    shard = work / f"shard-{ranks.rank}.h5"
    with telling_hdf5_full(shard), ShardWriter(shard, spec, batch_size) as writer:
        bar = tqdm(
            passes.blocks(missing),
            desc="logits" if ranks.size == 1 else f"logits, process 1 of {ranks.size}",
            total=len(missing),
            unit="block",
            disable=None if ranks.first else True,
        )
        for number, block in bar:
            writer.write(number, block)


def _kept(shards: Sequence[Path], spec: StoreSpec, batch_size: int) -> dict[Path, list[int]]:
    """Numbers of the spec's finished blocks in each shard, in order."""
    numbers = {span.number for span in block_ranges(spec, batch_size)}
    kept = {}
    for path in shards:
        shard = Shard(path, "r", spec, batch_size)
        with contextlib.closing(shard.file):
            kept[path] = sorted(numbers & set(shard.slots))
    return kept


def _check_first(path: Path, numbers: Sequence[int], spec: StoreSpec, batch_size: int, passes: Passes) -> None:
    """Compute a shard's first kept block again, and refuse the shard where it does not come out the same."""
    if not numbers:
        return
    shard = Shard(path, "r", spec, batch_size)
    with contextlib.closing(shard.file):
        kept = shard.read(numbers[0])
    ((_, found),) = passes.blocks([shard.span(numbers[0])])
    if not _same(found, kept):
        raise ValueError(
            f"{path}: the first kept block does not come out the same again; the machine or its libraries "
            "changed. Start anew with `dlkdd logits --fresh`"
        )


def _time_block(job: Job, span: BlockRange, *, compute: ComputeConfig, device: torch.device) -> tuple[float, float]:
    """Seconds of a block whose frames are read the first time, and once they are kept; read by one process."""
    clips = job.clips[span.start : span.stop]
    here = BlockRange(number=0, view=span.view, start=0, stop=len(clips))
    rule = job.teacher.preprocessing.view_rule
    height, width = rule.frame_size
    needed = sum(clip.num_frames for clip in job.clips) * height * width * 3
    keep = compute.cache == "on" or (compute.cache == "auto" and needed <= compute.cache_gb * 1e9)
    with tempfile.TemporaryDirectory(prefix="dlkdd-") as folder, contextlib.redirect_stdout(io.StringIO()):
        # What the first pass alone takes, for choosing algorithms and touching memory, is no part of any block.
        pixels = torch.zeros((len(clips), rule.frames, rule.size, rule.size, 3), dtype=torch.uint8)
        with torch.no_grad():
            job.teacher.recogniser(pixels.to(device)).cpu()
        cache = CachePolicy(folder=Path(folder), mode="on" if keep else "off", limit_bytes=needed)
        times = [time.perf_counter()]
        passes = job.open(clips, cache=cache, workers=0, device=device)
        for _ in range(2):
            ((_, _),) = passes.blocks([here])
            times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1]


def _same(found: Block, kept: Block) -> bool:
    return all(np.array_equal(column, kept.columns()[name]) for name, column in found.columns().items())


def _clip_table(clips: Sequence[Clip]) -> ClipTable:
    return ClipTable(
        ids=tuple(clip.id for clip in clips),
        labels=np.array([clip.label for clip in clips], np.int32),
        num_frames=np.array([clip.num_frames for clip in clips], np.int32),
        sha256=tuple(clip.sha256 for clip in clips),
    )

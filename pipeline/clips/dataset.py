"""Clips and views to tensors: what a data loader reads, and in which order."""

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from pipeline.clips.batch_slots import BatchSlots
from pipeline.clips.clip_index import Clip

# Also offered from here, where most readers of clips meet them.
from pipeline.clips.frame_cache import CachedFrames as CachedFrames
from pipeline.clips.frame_cache import CachePolicy as CachePolicy
from pipeline.clips.frame_cache import DecodedFrames as DecodedFrames
from pipeline.clips.frame_cache import FrameSource as FrameSource
from pipeline.clips.frame_cache import keep_frames as keep_frames
from pipeline.clips.frame_cache import open_dark_frames as open_dark_frames
from pipeline.clips.read_now import ReadNow, without_torchs_alarm
from pipeline.clips.video import Frames
from pipeline.clips.views import (
    View,
    ViewRule,
    apply_view,
    centre_view,
    evaluation_views,
    training_view,
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip as seen in one epoch."""

    pixels: Tensor
    """uint8 (T, S, S, 3)."""
    label: int
    index: int
    """Position of the clip in the dataset."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of views."""

    pixels: Tensor
    """uint8 (B, T, S, S, 3)."""
    labels: Tensor
    """int64 (B,)."""
    indices: Tensor
    """int64 (B,): positions of the clips in the dataset."""

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from where a copy to the GPU need not wait; called by the loader."""
        return Batch(pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory(), indices=self.indices)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(
            pixels=self.pixels.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            indices=self.indices,
        )


@dataclass(frozen=True, kw_only=True)
class DrawnViews:
    """The training view of a clip in an epoch, drawn; see training_view."""

    rule: ViewRule
    mode: str
    num_views: int | None

    def __call__(self, clip: Clip, epoch: int) -> View:
        """Draw."""
        return training_view(
            self.rule,
            mode=self.mode,
            clip_id=clip.id,
            num_frames=clip.num_frames,
            epoch=epoch,
            num_views=self.num_views,
        )


@dataclass(frozen=True, kw_only=True)
class CentreViews:
    """The centre view, whatever the epoch."""

    rule: ViewRule

    def __call__(self, clip: Clip, epoch: int) -> View:
        """Take the middle of the clip and of the frame."""
        return centre_view(self.rule, clip_id=clip.id, num_frames=clip.num_frames)


@dataclass(frozen=True, kw_only=True)
class EvaluationViews:
    """The views of a test clip by number; see evaluation_views."""

    rule: ViewRule
    clips: int
    crops: str

    def __call__(self, clip: Clip, number: int) -> View:
        """Take view `number`."""
        return self.of(clip)[number]

    def of(self, clip: Clip) -> tuple[View, ...]:
        """All views of a clip; as many of every clip."""
        return evaluation_views(
            self.rule, clip_id=clip.id, num_frames=clip.num_frames, clips=self.clips, crops=self.crops
        )


class ViewDataset(Dataset[Sample]):
    """Clips seen through views; an item's key is (epoch, position), so that workers need no shared state."""

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        source: FrameSource,
        view_of: Callable[[Clip, int], View],
        size: int,
        check: Callable[[Clip, int, Frames], None] | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            clips: what to see.
            source: where frames come from.
            view_of: (clip, epoch) -> view.
            size: side of the view in pixels.
            check: called with (clip, epoch, pixels) where a stored view is replayed.
        """
        self.clips = clips
        self._source = source
        self._view_of = view_of
        self._size = size
        self._check = check

    def __len__(self) -> int:
        return len(self.clips)

    def num_bytes(self, key: tuple[int, int]) -> int:
        """Of an item's pixels."""
        epoch, index = key
        return len(self._view_of(self.clips[index], epoch).frame_indices) * self._size**2 * 3

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """See one clip."""
        epoch, index = key
        clip = self.clips[index]
        view = self._view_of(clip, epoch)
        # The source cuts, so that no more is copied than is seen; torch mirrors twenty times as fast as numpy.
        rest = dataclasses.replace(view, crop=(0, 0, *view.crop[2:]), flip=False)
        frames = self._source.frames(clip, view.frame_indices, view.crop)
        pixels = torch.from_numpy(apply_view(frames, rest, self._size))
        if view.flip:
            pixels = pixels.flip(2)
        if self._check is not None:
            self._check(clip, epoch, pixels.numpy())
        return Sample(pixels=pixels, label=clip.label, index=index)


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """The batches of an epoch as keys: shuffled as a function of (seed, epoch), or as listed."""

    def __init__(self, length: int, *, batch_size: int, seed: int | None) -> None:
        self._length = length
        self._batch_size = batch_size
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self._length // self._batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self._length)
        if self._seed is not None:
            np.random.Generator(np.random.Philox(key=[self._seed, self.epoch])).shuffle(order)
        for start in range(0, self._length, self._batch_size):
            yield [(self.epoch, int(index)) for index in order[start : start + self._batch_size]]


class Batches:
    """Batches of a dataset, epoch by epoch; iterate `of_epoch(t)`."""

    def __init__(self, dataset: ViewDataset, *, batch_size: int, seed: int | None, workers: int) -> None:
        """Set up the loader.

        Args:
            dataset: clips and views.
            batch_size: clips a batch; the last one may be smaller.
            seed: shuffles each epoch; None keeps the clips' order.
            workers: reading processes; 0 reads in this one. Changes no pixel and no order.
        """
        self._order = EpochOrder(len(dataset), batch_size=batch_size, seed=seed)
        self._loader = load_keys(dataset, self._order, workers=workers, persistent=True)

    def __len__(self) -> int:
        return len(self._order)

    def of_epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        self._order.epoch = epoch
        return iter(self._loader)


def load_keys(
    dataset: ViewDataset,
    keys: Iterable[list[tuple[int, int]]],
    *,
    workers: int,
    persistent: bool = False,
    held: int = 1,
) -> "LoadedBatches":
    """Given batches of (epoch, position) keys, in their order.

    Args:
        dataset: clips and views.
        keys: the batches; iterated anew for each pass.
        workers: reading processes; 0 reads in this one.
        persistent: keep the workers between passes.
        held: batches that are in use at once.
    """
    slots, read_now = _slots(dataset, keys, workers=workers, held=held), ReadNow(workers)
    return LoadedBatches(
        DataLoader(
            _Reported(dataset, read_now),  # type: ignore[arg-type]
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=_Collate(slots),
            persistent_workers=persistent and workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: the loader draws a seed for its workers, which must not move the model's dropout.
            generator=torch.Generator(),
        ),
        slots,
        lambda death: [dataset.clips[index].id for index in read_now.left_by(death)],
    )


def _slots(
    dataset: ViewDataset, keys: Iterable[list[tuple[int, int]]], *, workers: int, held: int
) -> BatchSlots | None:
    """Memory for the batches of forked workers; None where batches go another way."""
    # With a GPU the loader's own thread copies batches to page-locked memory and gives them back.
    if workers == 0 or multiprocessing.get_start_method() != "fork" or torch.cuda.is_available():
        return None
    first = next(iter(keys), None)
    if not first:
        return None
    # Two batches wait for each worker; those in use are let go only once the next are there.
    count = min(256, 2 * workers + 2 * held)
    return BatchSlots(count, len(first) * dataset.num_bytes(first[0]))


class LoadedBatches:
    """Passes over a loader. A clip that cannot be read is an error here, in the words it was found with."""

    def __init__(
        self,
        loader: "DataLoader[Batch | _Slot | _Unread]",
        slots: BatchSlots | None,
        left_by: Callable[[str], list[str]],
    ) -> None:
        self._loader = loader
        self._slots = slots
        self._left_by = left_by

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """One pass.

        Raises:
            ValueError: a clip is bad.
            OSError: a file cannot be read or written.
            ChildProcessError: a reading process died; names the clip that it was reading.
        """
        # Begun here, not at the first batch: workers read ahead, and the order's epoch is that of now.
        with without_torchs_alarm():
            begun = iter(self._loader)
        return _received(_while_workers_live(begun, self._left_by), self._slots)


@dataclass(frozen=True, kw_only=True)
class _Unread:
    """Why a clip could not be read."""

    kind: type[ValueError] | type[OSError]
    message: str


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """A batch that lies in a slot."""

    number: int
    shape: tuple[int, ...]
    labels: list[int]
    indices: list[int]


def _while_workers_live(
    batches: "Iterator[Batch | _Slot | _Unread]", left_by: Callable[[str], list[str]]
) -> "Iterator[Batch | _Slot | _Unread]":
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            clips = left_by(str(error))
            where = f"while it read {', '.join(clips)}" if clips else "between two clips, perhaps for want of memory"
            raise ChildProcessError(
                f"a reading process died {where} ({str(error).strip()}); look at the clip with `dlkdd inspect`, free "
                "memory, or set compute.workers: 0"
            ) from error
        yield batch


def _received(batches: "Iterator[Batch | _Slot | _Unread]", slots: BatchSlots | None) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, _Unread):
            raise batch.kind(batch.message)
        if isinstance(batch, _Slot):
            assert slots is not None, "a batch lies in a slot, and there are none"
            batch = Batch(
                pixels=slots.lend(batch.number, batch.shape),
                labels=torch.tensor(batch.labels),
                indices=torch.tensor(batch.indices),
            )
        yield batch


class _Reported(Dataset["Sample | _Unread"]):
    """A dataset whose errors are values: torch would bury what a worker raises in the text of its own error."""

    def __init__(self, dataset: ViewDataset, read_now: ReadNow) -> None:
        self._dataset = dataset
        self._read_now = read_now

    def __getitem__(self, key: tuple[int, int]) -> "Sample | _Unread":
        self._read_now.begin(key[1])
        try:
            return self._dataset[key]
        except ValueError as error:
            return _Unread(kind=ValueError, message=str(error))
        except OSError as error:
            return _Unread(kind=OSError, message=str(error))
        finally:
            self._read_now.end()


class _Collate:
    """Samples to a batch; in a worker, in a slot where one is free."""

    def __init__(self, slots: BatchSlots | None) -> None:
        self._slots = slots

    def __call__(self, samples: "list[Sample | _Unread]") -> "Batch | _Slot | _Unread":
        read = []
        for sample in samples:
            if isinstance(sample, _Unread):
                return sample
            read.append(sample)
        pixels = [sample.pixels for sample in read]
        labels, indices = [sample.label for sample in read], [sample.index for sample in read]
        slot = self._slots.stack(pixels) if self._slots is not None else None
        if slot is not None:
            return _Slot(number=slot, shape=(len(read), *pixels[0].shape), labels=labels, indices=indices)
        return Batch(
            # Of a worker: stacked in memory that the main process shares, not copied there afterwards.
            pixels=default_collate(pixels),
            labels=torch.tensor(labels),
            indices=torch.tensor(indices),
        )

"""Batches of reading processes in memory that is used again: never written while anybody still looks at it."""

import multiprocessing
import os

import numpy as np
import pytest
import torch

from pipeline.clips.batch_slots import BatchSlots
from pipeline.clips.clip_index import Clip
from pipeline.clips.dataset import Batches, ViewDataset
from pipeline.clips.views import View

FRAMES, SIDE, CLIPS, BATCH, WORKERS = 3, 8, 90, 4, 2
SLOTS = 2 * WORKERS + 2

forked = pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork" or torch.cuda.is_available(),
    reason="slots are for forked workers on a machine without a GPU",
)


class Numbered:
    """Frames that hold their clip's number."""

    def frames(self, clip, indices, crop=None):
        return np.full((len(indices), SIDE, SIDE, 3), int(clip.id), np.uint8)


def centre(clip, epoch):
    return View(frame_indices=tuple(range(FRAMES)), crop=(0, 0, SIDE, SIDE), flip=False)


def batches(workers=WORKERS):
    empty = {"num_frames": FRAMES, "label": 0}
    clips = [Clip(**dict.fromkeys(Clip.__annotations__, 0) | empty | {"id": str(number)}) for number in range(CLIPS)]
    dataset = ViewDataset(clips, source=Numbered(), view_of=centre, size=SIDE)
    return Batches(dataset, batch_size=BATCH, seed=0, workers=workers)


def numbers(batch):
    return batch.pixels[:, 0, 0, 0, 0].tolist()


@forked
def test_batches_that_are_all_kept_keep_their_pixels():
    kept = list(batches().of_epoch(0))
    assert len(kept) > 2 * SLOTS
    for batch in kept:
        assert numbers(batch) == batch.indices.tolist()
        assert (batch.pixels == batch.pixels[:, :1, :1, :1, :1]).all()


@forked
def test_a_part_of_a_batch_keeps_its_pixels():
    parts = [(batch.pixels[1:2], int(batch.indices[1])) for batch in batches().of_epoch(0)]
    assert [int(pixels.unique()) for pixels, _ in parts] == [index for _, index in parts]


@forked
def test_slots_are_used_for_every_batch_where_batches_are_dropped(monkeypatch):
    lend, lent = BatchSlots.lend, []
    monkeypatch.setattr(BatchSlots, "lend", lambda self, slot, shape: lent.append(slot) or lend(self, slot, shape))
    every = batches()
    for epoch in range(3):
        for batch in every.of_epoch(epoch):
            assert numbers(batch) == batch.indices.tolist()
    assert len(lent) == 3 * len(every)
    assert set(lent) == set(range(SLOTS))


@forked
def test_workers_change_no_batch():
    for ours, plain in zip(batches().of_epoch(1), batches(workers=0).of_epoch(1), strict=True):
        assert torch.equal(ours.pixels, plain.pixels)
        assert torch.equal(ours.labels, plain.labels)
        assert torch.equal(ours.indices, plain.indices)


@forked
def test_a_pass_that_is_left_in_the_middle_harms_no_later_one():
    every = batches()
    for epoch in range(SLOTS):
        next(every.of_epoch(epoch))
    assert sorted(number for batch in every.of_epoch(0) for number in numbers(batch)) == list(range(CLIPS))


def stacked(slots, value):
    return slots.stack([torch.full((2, 3), value, dtype=torch.uint8)])


def test_a_slot_is_free_when_the_last_tensor_on_it_is_gone():
    slots = BatchSlots(1, 6)
    first = slots.lend(stacked(slots, 1), (1, 2, 3))
    part = first[0, 1]
    del first
    assert stacked(slots, 2) is None
    assert part.tolist() == [1, 1, 1]
    del part
    assert stacked(slots, 2) == 0


def test_what_does_not_fit_takes_no_slot():
    slots = BatchSlots(1, 6)
    assert slots.stack([torch.zeros((7,), dtype=torch.uint8)]) is None
    assert slots.stack([torch.zeros(shape, dtype=torch.uint8) for shape in ((2,), (1,))]) is None
    assert stacked(slots, 1) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_process_frees_no_slot_that_its_parent_uses():
    slots = BatchSlots(1, 6)
    lent = slots.lend(stacked(slots, 1), (1, 2, 3))
    child = os.fork()
    if child == 0:
        del lent
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert stacked(slots, 2) is None
    assert lent.unique().tolist() == [1]

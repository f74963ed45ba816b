"""Memory that reading processes fill with batches again and again.

A fresh shared batch costs more than what is copied into it: every page is mapped on the first touch, and given back by
the process that trains. Slots are mapped once. A batch's slot is free again when the last tensor on it is gone. A
batch that was read ahead and never taken, since a pass was left, keeps its slot: later ones then take fresh memory.
"""

import math
import mmap
import os
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class BatchSlots:
    """Slots of one size, shared by this process and those that it forks afterwards."""

    def __init__(self, count: int, num_bytes: int) -> None:
        """Map the memory; no page of it is taken before it is written.

        Args:
            count: slots, at most 256.
            num_bytes: of a slot.
        """
        self._num_bytes = num_bytes
        self._owner = os.getpid()
        # Anonymous: containers allow little in /dev/shm.
        self._memory = mmap.mmap(-1, count * num_bytes)
        # The free slots, a byte each: reading one takes it, whichever process reads.
        self._free, self._give = os.pipe()
        os.set_blocking(self._free, False)
        os.write(self._give, bytes(range(count)))
        weakref.finalize(self, _close, self._free, self._give)

    def stack(self, samples: list[Tensor]) -> int | None:
        """Stack uint8 samples of one shape into a free slot.

        Returns:
            The slot; None where none is free or the samples do not fit, and nothing was done.
        """
        shape = (len(samples), *samples[0].shape)
        if math.prod(shape) > self._num_bytes or any(sample.shape != shape[1:] for sample in samples):
            return None
        try:
            slot = os.read(self._free, 1)[0]
        except BlockingIOError:
            return None
        torch.stack(samples, out=torch.from_numpy(self._array(slot, shape)))
        return slot

    def lend(self, slot: int, shape: tuple[int, ...]) -> Tensor:
        """What was stacked in a slot, uint8 of the given shape; the slot is free when all tensors on it are gone."""
        array = self._array(slot, shape)
        lent = weakref.finalize(array, self._take_back, slot)
        lent.atexit = False
        return torch.from_numpy(array)

    def _array(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        start = slot * self._num_bytes
        return np.frombuffer(self._memory, np.uint8, math.prod(shape), start).reshape(shape)

    def _take_back(self, slot: int) -> None:
        # A process forked while a slot is lent drops its copy of the tensor, and must not free the slot.
        if os.getpid() == self._owner:
            os.write(self._give, bytes([slot]))


def _close(*handles: int) -> None:
    for handle in handles:
        os.close(handle)

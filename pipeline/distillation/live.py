"""The ablation without a store: the teacher stays in memory and answers in every step of the student's training.

It gives what the store gives, at the cost of one more forward pass a step, of the teacher's weights in memory, and
of a second reading of the clips where the teacher's frames are enhanced before the crop.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pipeline.clips.clip_index import Clip
from pipeline.clips.dataset import Batch, FrameSource, ViewDataset
from pipeline.clips.views import View


class LiveTeacher:
    """A frozen teacher that is asked for the logits of the student's batches."""

    def __init__(
        self,
        recogniser: nn.Module,
        clips: Sequence[Clip],
        *,
        view_of: Callable[[Clip, int], View],
        size: int,
        bright: FrameSource | None,
        device: torch.device,
    ) -> None:
        """Keep the parts; the teacher is set to evaluation mode.

        Args:
            recogniser: pixels uint8 (B, T, S, S, 3) -> logits (B, K), on its device.
            clips: the training clips; positions in batches refer to them.
            view_of: (clip, epoch) -> the teacher's view.
            size: side of the view in pixels.
            bright: where the teacher's frames come from; None where it sees the student's own pixels.
            device: of the recogniser.
        """
        # Not frozen by requires_grad_(False) besides: torch chooses other convolutions then, also without gradients,
        # and the last bits would not be those of the store.
        self._recogniser = recogniser.eval()
        self._seen = None if bright is None else ViewDataset(clips, source=bright, view_of=view_of, size=size)
        self._device = device

    @torch.no_grad()
    def __call__(self, batch: Batch, epoch: int) -> Tensor:
        """The teacher's logits of a batch in an epoch, float32 (B, K), on the teacher's device."""
        pixels = batch.pixels
        if self._seen is not None:
            pixels = torch.stack([self._seen[epoch, int(index)].pixels for index in batch.indices])
        logits: Tensor = self._recogniser(pixels.to(self._device))
        return logits

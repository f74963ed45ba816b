"""Windows of video to answers, through the views and the protocol that the test uses."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.clips.video import Frames
from pipeline.clips.views import View, apply_view, evaluation_views
from pipeline.enhancers.enhanced_frames import enhance_pixels
from pipeline.inference.averaging import average
from pipeline.inference.loading import Loaded
from pipeline.inference.windows import Window


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which views of a window are averaged, and how; the names and meanings are those of `evaluate` in params.yaml."""

    clips: int
    """Starts in time, evenly spaced."""
    crops: str
    """centre, five or ten."""
    average: str
    """logits or probabilities."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a checkpoint says of a window."""

    number: int
    """Position of the window among those of its video, 0-based."""
    start: float
    """Seconds since the video's first frame."""
    end: float
    """Seconds; where the window's last frame has gone."""
    num_frames: int
    """Frames of the window."""
    logits: NDArray[np.float32]
    """(K,), averaged over the views."""
    probabilities: NDArray[np.float32]
    """(K,), their softmax."""
    looped: bool
    """The window has fewer frames than a view, so that frames were repeated."""


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A window whose views are on their way through the network; without its frames, which may be many."""

    number: int
    start: float
    end: float
    num_frames: int
    views: tuple[View, ...]
    rows: list[Tensor] = field(default_factory=list)
    """Logits (K,) of the views that are through."""


class Predictor:
    """A loaded checkpoint that answers windows."""

    def __init__(self, loaded: Loaded, *, protocol: Protocol, batch_size: int, device: torch.device) -> None:
        """Keep the parts.

        Args:
            loaded: the checkpoint.
            protocol: which views count.
            batch_size: views that pass the network together.
            device: where it runs.

        Raises:
            ValueError: mirrored crops of a model that never saw a mirrored clip.
        """
        if protocol.crops == "ten" and not loaded.preprocessing.view_rule.flip:
            raise ValueError(
                "--crops ten mirrors clips, and the checkpoint was trained with views.flip: false; take five"
            )
        self.preprocessing = loaded.preprocessing
        self.class_names = loaded.record.class_names
        self._loaded = loaded
        self._protocol = protocol
        self._batch_size = batch_size
        self._device = device

    def answers(self, windows: Iterable[Window], *, name: str) -> Iterator[Answer]:
        """Answer windows in their order, their views in batches.

        Args:
            windows: may be endless; no more are asked for than fill a batch.
            name: of the video, for messages.

        Raises:
            ValueError: a window is shorter than a view and the checkpoint forbids looping, or the answer is no number.
        """
        waiting: deque[_Waiting] = deque()
        batch: list[tuple[_Waiting, Frames]] = []
        for window in windows:
            item = _Waiting(
                number=window.number,
                start=window.start,
                end=window.end,
                num_frames=window.num_frames,
                views=self._views(window, name),
            )
            waiting.append(item)
            for pixels in self._seen(window, item.views):
                batch.append((item, pixels))
                if len(batch) == self._batch_size:
                    self._pass(batch)
                    yield from self._ready(waiting, name)
        if batch:
            self._pass(batch)
        yield from self._ready(waiting, name)

    def _views(self, window: Window, name: str) -> tuple[View, ...]:
        return evaluation_views(
            self.preprocessing.view_rule,
            clip_id=name,
            num_frames=window.num_frames,
            clips=self._protocol.clips,
            crops=self._protocol.crops,
        )

    def _seen(self, window: Window, views: Sequence[View]) -> Iterator[Frames]:
        """The pixels of each view, uint8 (T, S, S, 3)."""
        indices = sorted({index for view in views for index in view.frame_indices})
        frames = window.take(indices)
        if self._loaded.enhancer is not None and self.preprocessing.enhancer_on == "frame":
            frames = enhance_pixels(self._loaded.enhancer, frames, device=self._device)
        place = {index: position for position, index in enumerate(indices)}
        for view in views:
            chosen = frames[[place[index] for index in view.frame_indices]]
            yield apply_view(chosen, view, self.preprocessing.view_rule.size)

    @torch.no_grad()
    def _pass(self, batch: list[tuple[_Waiting, Frames]]) -> None:
        """Send views through the network, and empty the batch."""
        pixels = torch.from_numpy(np.stack([seen for _, seen in batch])).to(self._device)
        logits = self._loaded.recogniser(pixels).float().cpu()
        for (item, _), row in zip(batch, logits, strict=True):
            item.rows.append(row)
        batch.clear()

    def _ready(self, waiting: deque[_Waiting], name: str) -> Iterator[Answer]:
        while waiting and len(waiting[0].rows) == len(waiting[0].views):
            item = waiting.popleft()
            logits = average(torch.stack(item.rows), over=self._protocol.average)
            if not torch.isfinite(logits).all():
                raise ValueError(f"{name}: the checkpoint's answer is no number (NaN or infinity); train it again")
            yield Answer(
                number=item.number,
                start=item.start,
                end=item.end,
                num_frames=item.num_frames,
                logits=logits.numpy(),
                probabilities=logits.softmax(dim=0).numpy(),
                looped=any(_loops(view.frame_indices) for view in item.views),
            )


def _loops(indices: Sequence[int]) -> bool:
    return any(later <= earlier for earlier, later in pairwise(indices))

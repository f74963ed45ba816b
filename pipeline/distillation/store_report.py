"""What a logit store says, for people at a terminal: facts, and one clip.

Text of a store may come from anywhere, so what is printed has no control characters.
"""

from __future__ import annotations

import bisect
import difflib
import math
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.logit_store_file import REMEDY
from pipeline.distillation.logit_store_format import Scalar

WIDTH = 80
BAR_WIDTH = 40
NAME_WIDTH = 24
MAX_VALUE = 200  # characters of a field that are shown
COMPARED = 2500  # clip ids before and after an unknown one that are compared with it


def open_store(path: Path) -> LogitStore:
    """Open a store that this machine may not have written: checked in a child process first, read row by row.

    Raises:
        OSError: there is no such file.
        ValueError: no sound store of this version; names the file, what is wrong and the remedy.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found no file, wanted a logit store; {REMEDY}")
    return LogitStore.open(path, memory_limit_bytes=0, untrusted=True)


# Facts


def facts(store: LogitStore) -> str:
    """What the store holds and was made of; lines of WIDTH columns, but for hashes and paths, which stay whole."""
    summary, classes = store.summary, len(store.class_names)
    logits = 4 * summary.rows * classes  # float32
    by_view = summary.top1_by_view
    lines = {
        "rows": f"{summary.rows} = {len(store.clip_ids)} clips x {store.num_views} views",
        "frames": f"{store.frames_per_view} a view",
        "classes": f"{classes}: {', '.join(store.class_names)}",
        "gate": f"top-1 {summary.top1:.3f} over training views, chance {1 / classes:.3f}; "
        f"by view {min(by_view):.3f} to {max(by_view):.3f}",
        "file": f"{summary.bytes} bytes",
        "logits": f"{logits} bytes, {4 * classes} a row",
        "overhead": f"{summary.bytes - logits} bytes, {(summary.bytes - logits) / summary.rows:.1f} a row",
        "sha256": summary.content_sha256,
    }
    said = [*_fields(lines), "fingerprint (what the rows depend on)", *_fields(store.fingerprint, indent=2)]
    return "\n".join([*said, "provenance (recorded beside)", *_fields(store.provenance, indent=2)])


def _fields(values: Mapping[str, Scalar], *, indent: int = 0) -> list[str]:
    """Names and values in two columns; long values wrapped, very long ones cut off."""
    width = max((len(name) for name in values), default=0) + 2
    lines = []
    for name, value in values.items():
        text = printable(str(value))
        if len(text) > MAX_VALUE:
            text = f"{text[:MAX_VALUE]}... ({len(text)} characters)"
        head = " " * indent + printable(name).ljust(width)
        parts = textwrap.wrap(text, WIDTH - len(head), break_long_words=False, break_on_hyphens=False) or [""]
        lines += [head + parts[0], *(" " * len(head) + part for part in parts[1:])]
    return lines


# One clip


def show_clip(store: LogitStore, clip_id: str, *, temperature: float, view: int | None, top: int) -> str:
    """Views and soft targets of one clip; the bars fit WIDTH columns, the clip's label is marked.

    Args:
        store: the store.
        clip_id: one of its clips.
        temperature: > 0, of softmax(z / temperature).
        view: its number; None for all.
        top: how many of the most probable classes are shown; the label is shown in any case.

    Raises:
        ValueError: an unknown clip (names the nearest ones) or view, or a temperature that is none.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature: found {temperature}, wanted a finite number above 0")
    if clip_id not in store.clip_ids:
        near = nearest(clip_id, store.clip_ids)
        hint = f"; the nearest are {', '.join(map(repr, near))}" if near else ""
        raise ValueError(f"{store.path}: found no clip {clip_id!r} among {len(store.clip_ids)}{hint}")
    label = int(store.labels[store.clip_ids.index(clip_id)])
    lines = [printable(clip_id), f"label {label} ({_fit(store.class_names[label], NAME_WIDTH).strip()})"]
    for number in range(store.num_views) if view is None else [view]:
        row = store.row(clip_id, number)
        crop = " ".join(map(str, row.crop))
        lines.append(f"\nview {number}: flip {'yes' if row.flip else 'no'}, crop {crop} (top left height width)")
        lines += textwrap.wrap(f"frames {shortened(row.frame_indices)}", WIDTH, subsequent_indent="  ")
        lines.append(f"softmax(z / {temperature:g}):")
        lines += bars(soft_targets(row.logits, temperature), store.class_names, label=label, top=top)
    return "\n".join(lines)


def soft_targets(logits: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float64]:
    """softmax(z / temperature) of one row (DL-KDD Eq. 5).

    Args:
        logits: (K,), before softmax.
        temperature: > 0.

    Returns:
        (K,) probabilities.
    """
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max())
    probabilities: npt.NDArray[np.float64] = powers / powers.sum()
    return probabilities


def bars(probabilities: npt.NDArray[np.float64], names: Sequence[str], *, label: int, top: int) -> list[str]:
    """A line for each of the most probable classes: mark of the label, name, probability, bar from 0 to 1."""
    order = np.argsort(-probabilities, kind="stable").tolist()
    shown = order[:top] if label in order[:top] else [*order[: max(0, top - 1)], label]
    lines = []
    for number in shown:
        bar = "#" * round(BAR_WIDTH * float(probabilities[number]))
        mark = ">" if number == label else " "
        lines.append(f"{mark} {_fit(names[number], NAME_WIDTH)} {probabilities[number]:6.4f} {bar}".rstrip())
    return lines if len(shown) == len(names) else [*lines, f"  and {len(names) - len(shown)} other classes"]


def shortened(indices: Sequence[int]) -> str:
    """Frame indices as text, even steps as ranges: 0-15, 3-33 step 2, 4."""
    parts, start = [], 0
    while start < len(indices):
        stop = start + 1
        step = indices[stop] - indices[start] if stop < len(indices) else 0
        while stop < len(indices) and indices[stop] - indices[stop - 1] == step:
            stop += 1
        if stop - start < 3 or step < 1:
            stop = start + 1
            parts.append(str(indices[start]))
        else:
            parts.append(f"{indices[start]}-{indices[stop - 1]}" + (f" step {step}" if step > 1 else ""))
        start = stop
    return f"{', '.join(parts)} ({len(indices)})"


def nearest(clip_id: str, ids: Sequence[str]) -> list[str]:
    """Up to three clip ids that were perhaps meant: those that hold the text, else those spelt alike.

    Spelling is compared in the folders spelt most alike and there with the neighbours in order alone: a comparison
    takes microseconds, and a store may hold a million clips.
    """
    holding = [other for other in ids if clip_id and clip_id in other]
    if holding:
        return holding[:3]
    folders = sorted({other.rpartition("/")[0] for other in ids})
    close = difflib.get_close_matches(clip_id.rpartition("/")[0], folders, n=3, cutoff=0.5)
    among = [other for other in ids if other.rpartition("/")[0] in close] or ids
    place = bisect.bisect(among, clip_id)
    return difflib.get_close_matches(clip_id, among[max(0, place - COMPARED) : place + COMPARED], n=3, cutoff=0.5)


def printable(text: str) -> str:
    """The text without characters that would steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _fit(text: str, width: int) -> str:
    """The text in exactly `width` columns of a terminal, cut off where it is longer; wide letters take two."""
    kept, used = "", 0
    for letter in printable(text):
        columns = 0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        if used + columns > width:
            break
        kept, used = kept + letter, used + columns
    return kept + " " * (width - used)

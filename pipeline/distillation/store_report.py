"""What a logit store says, for people and other programs: facts, one clip, a copy as csv or npz, a comparison.

Text of a store may come from anywhere, so what goes to the terminal has no control characters, and what goes to a
spreadsheet is no formula.
"""

from __future__ import annotations

import bisect
import csv
import difflib
import json
import math
import textwrap
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.clips.files import replacing
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.logit_store_check import REMEDY, SLAB_BYTES, open_hdf5, plain
from pipeline.distillation.logit_store_format import Scalar
from pipeline.distillation.logit_store_layout import COLUMNS, TEXT

WIDTH = 80
BAR_WIDTH = 40
NAME_WIDTH = 24
MAX_VALUE = 200  # characters of a field that are shown
COMPARED = 2500  # clip ids before and after an unknown one that are compared with it
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of a formula
CSV_HEAD = ("clip", "label", "class", "view", "flip", "crop")


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


# Copies


def export_csv(store: LogitStore, out: Path) -> None:
    """Write all rows as csv: clip, label, class, view, flip, crop, then a column logit_<class> for each class.

    A text that a spreadsheet would take for a formula gets a leading apostrophe; numbers stay numbers.

    Raises:
        OSError: it cannot be written; ValueError: `out` is the store itself, or that one was replaced meanwhile.
    """
    names = [_cell(name) for name in store.class_names]
    ids = [_cell(clip_id) for clip_id in store.clip_ids]
    _refuse_itself(store, out)
    with replacing(out) as partial, partial.open("w", encoding="utf-8", newline="") as text, _Columns(store) as file:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*CSV_HEAD, *(f"logit_{name}" for name in store.class_names)])
        for span in _spans(store.summary.rows, 128 * len(names)):  # 128: bytes of a number as numpy's text
            logits = file["logits"][span].astype(np.str_)  # the shortest text that reads back as the same float32
            crop, flip = file["views/crop"][span].tolist(), file["views/flip"][span].tolist()
            for row, values in enumerate(logits.tolist()):
                view, clip = divmod(span.start + row, len(ids))
                label = int(store.labels[clip])
                box = _cell(" ".join(map(str, crop[row])))
                writer.writerow([ids[clip], label, names[label], view, int(flip[row]), box, *values])


def export_npz(store: LogitStore, out: Path) -> None:
    """Write every dataset as an array of the same name, and `attributes`: the file's attributes as json.

    Reads back with numpy.load(out), without pickles: texts are arrays of fixed-length unicode.

    Raises:
        OSError: it cannot be written; ValueError: `out` is the store itself, or that one was replaced meanwhile.
    """
    _refuse_itself(store, out)
    with replacing(out) as partial, zipfile.ZipFile(partial, "w") as archive, _Columns(store) as file:
        attributes = np.array(json.dumps({name: plain(value) for name, value in sorted(file.attrs.items())}))
        _write_array(archive, "attributes", attributes, [attributes])
        for column in COLUMNS:
            dataset = file[column.path]
            if column.dtype == TEXT:
                whole = np.array(dataset.asstr()[()], np.str_)
                _write_array(archive, column.path, whole, [whole])
            elif not dataset.shape:
                _write_array(archive, column.path, dataset, [dataset[()]])
            else:
                spans = _spans(len(dataset), dataset.dtype.itemsize * math.prod(dataset.shape[1:]))
                _write_array(archive, column.path, dataset, (dataset[span] for span in spans))


def _write_array(archive: zipfile.ZipFile, name: str, like: Any, slabs: Iterable[Any]) -> None:
    """One member of an npz, a slab at a time; always dated alike, so that equal stores give equal files."""
    head = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": False, "shape": like.shape}
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, head)
        for slab in slabs:
            member.write(slab.tobytes())


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _refuse_itself(store: LogitStore, out: Path) -> None:
    if out.exists() and out.samefile(store.path):
        raise ValueError(f"{out}: found the store itself, wanted another file to write to; name another one")


# Comparison


@dataclass(frozen=True, kw_only=True)
class ChangedClip:
    """A clip whose largest logit is another class in the other store."""

    clip: str
    num_views: int
    """In how many of the common views."""
    view: int
    """The first of them."""
    before: str
    """Class name in A, in that view."""
    after: str
    """Class name in B, in that view."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two stores side by side, rows joined by clip id and view."""

    rows: int
    """In both."""
    only_a: int
    only_b: int
    largest: float
    """Largest absolute difference of a logit."""
    mean: float
    """Mean absolute difference of all common logits."""
    same_top1: float
    """Share of the common rows whose largest logit is the same class."""
    changed: tuple[ChangedClip, ...]
    """Sorted by clip."""
    fields: tuple[str, ...]
    """Fields of fingerprint and provenance that differ, with both values."""


def compare(a: LogitStore, b: LogitStore) -> Difference:
    """Compare the rows that two stores have in common.

    Raises:
        ValueError: other classes, or no row in common.
    """
    if a.class_names != b.class_names:
        found, wanted = _some(b.class_names, a.class_names), _some(a.class_names, b.class_names)
        raise ValueError(f"{b.path}: found {found}, wanted {wanted} as in {a.path}; compare stores of the same classes")
    of_b = {clip_id: clip for clip, clip_id in enumerate(b.clip_ids)}
    pairs = [(clip, of_b[clip_id]) for clip, clip_id in enumerate(a.clip_ids) if clip_id in of_b]
    if not pairs:
        raise ValueError(f"{b.path}: found no clip of {a.path}; compare stores of the same clips")
    in_a, in_b = np.array(pairs, np.int64).T  # both rise, because both stores are sorted by id
    views = min(a.num_views, b.num_views)
    largest, total, changes = 0.0, 0.0, dict[int, list[tuple[int, int, int]]]()
    with _Columns(a) as file_a, _Columns(b) as file_b:
        for view in range(views):
            for span in _spans(len(pairs), 8 * len(a.class_names)):
                left = _gather(file_a["logits"], view * len(a.clip_ids) + in_a[span])
                right = _gather(file_b["logits"], view * len(b.clip_ids) + in_b[span])
                distance = np.abs(left.astype(np.float64) - right)
                largest, total = max(largest, float(distance.max())), total + float(distance.sum())
                before, after = left.argmax(axis=1), right.argmax(axis=1)
                for row in np.flatnonzero(before != after).tolist():
                    change = (view, int(before[row]), int(after[row]))
                    changes.setdefault(int(in_a[span.start + row]), []).append(change)
    rows = views * len(pairs)
    return Difference(
        rows=rows,
        only_a=a.summary.rows - rows,
        only_b=b.summary.rows - rows,
        largest=largest,
        mean=total / (rows * len(a.class_names)),
        same_top1=1 - sum(map(len, changes.values())) / rows,
        changed=tuple(_changed(a, clip, changes[clip]) for clip in sorted(changes)),
        fields=tuple(_field_sentences(a, b)),
    )


def difference_text(difference: Difference, *, limit: int) -> str:
    """The comparison as lines; at most `limit` of the clips that changed."""
    lines = [
        f"rows         {difference.rows} in both, {difference.only_a} only in A, {difference.only_b} only in B",
        f"difference   largest {difference.largest:.6g}, mean {difference.mean:.6g}",
        f"same top-1   {difference.same_top1:.4f} of the rows in both",
        f"changed      {len(difference.changed)} clips have another top-1",
    ]
    for change in difference.changed[:limit]:
        said = f"{printable(change.before)} -> {printable(change.after)} in view {change.view}"
        more = f" and {change.num_views - 1} other views" if change.num_views > 1 else ""
        lines.append(f"  {printable(change.clip)}: {said}{more}")
    if len(difference.changed) > limit:
        lines.append(f"  and {len(difference.changed) - limit} other clips")
    lines.append(f"fields       {len(difference.fields)} differ")
    return "\n".join([*lines, *(f"  {printable(field)}" for field in difference.fields)])


def _changed(store: LogitStore, clip: int, changes: list[tuple[int, int, int]]) -> ChangedClip:
    view, before, after = changes[0]
    names = store.class_names
    return ChangedClip(
        clip=store.clip_ids[clip], num_views=len(changes), view=view, before=names[before], after=names[after]
    )


def _field_sentences(a: LogitStore, b: LogitStore) -> Iterator[str]:
    for kind in ("fingerprint", "provenance"):
        of_a, of_b = getattr(a, kind), getattr(b, kind)
        for name in sorted(of_a.keys() | of_b.keys()):
            sides = [repr(fields[name]) if name in fields else "none" for fields in (of_a, of_b)]
            if sides[0] != sides[1]:
                yield f"{kind} {name}: {sides[0]} in A, {sides[1]} in B"


def _some(names: Sequence[str], others: Sequence[str]) -> str:
    """The first few names that the others lack, for a message; all of one order where none is lacking."""
    lacking = [name for name in names if name not in others] or list(names)
    return f"{len(names)} classes with " + ", ".join(map(repr, lacking[:3])) + (", ..." if len(lacking) > 3 else "")


# Reading in slabs


class _Columns:
    """The datasets of a store, read a slab at a time, so that no store has to fit into memory."""

    def __init__(self, store: LogitStore) -> None:
        self._store = store

    def __enter__(self) -> Any:
        self._file = open_hdf5(self._store.path, "r", remedy=REMEDY)
        if plain(self._file.attrs.get("content_sha256")) != self._store.summary.content_sha256:
            self._file.close()
            raise ValueError(f"{self._store.path}: found another store than the one checked before; start again")
        return self._file

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _spans(rows: int, row_bytes: int) -> Iterator[slice]:
    step = max(1, SLAB_BYTES // row_bytes)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _gather(dataset: Any, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Rows at rising positions, by windows of the file: naming single rows makes HDF5 slow."""
    step = max(1, SLAB_BYTES // (4 * dataset.shape[1]))
    parts = np.split(rows, np.flatnonzero(np.diff(rows // step)) + 1)
    return np.concatenate([dataset[part[0] : part[-1] + 1][part - part[0]] for part in parts])

"""Copies of a logit store as csv or npz, for other programs.

Text of a store may come from anywhere, so what goes to a spreadsheet is no formula.
"""

import csv
import json
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clips.files import replacing
from pipeline.clips.plain_text import cell
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.logit_store_file import plain
from pipeline.distillation.logit_store_layout import COLUMNS, TEXT
from pipeline.distillation.store_slabs import Columns, slabs

CSV_HEAD = ("clip", "label", "class", "view", "flip", "crop")


def export_csv(store: LogitStore, out: Path) -> None:
    """Write all rows as csv: clip, label, class, view, flip, crop, then a column logit_<class> for each class.

    A text that a spreadsheet would take for a formula, or that begins with an apostrophe, gets an apostrophe before
    it; numbers stay numbers.

    Raises:
        OSError: it cannot be written; ValueError: `out` is the store itself, or that one was replaced meanwhile.
    """
    names = [cell(name) for name in store.class_names]
    ids = [cell(clip_id) for clip_id in store.clip_ids]
    _refuse_itself(store, out)
    with replacing(out) as partial, partial.open("w", encoding="utf-8", newline="") as text, Columns(store) as file:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*CSV_HEAD, *(f"logit_{name}" for name in store.class_names)])
        for span in slabs(store.summary.rows, 128 * len(names)):  # 128: bytes of a number as numpy's text
            logits = file["logits"][span].astype(np.str_)  # the shortest text that reads back as the same float32
            crop, flip = file["views/crop"][span].tolist(), file["views/flip"][span].tolist()
            for row, values in enumerate(logits.tolist()):
                view, clip = divmod(span.start + row, len(ids))
                label = int(store.labels[clip])
                box = cell(" ".join(map(str, crop[row])))
                writer.writerow([ids[clip], label, names[label], view, int(flip[row]), box, *values])


def export_npz(store: LogitStore, out: Path) -> None:
    """Write every dataset as an array of the same name, and `attributes`: the file's attributes as json.

    Reads back with numpy.load(out), without pickles: texts are arrays of fixed-length unicode.

    Raises:
        OSError: it cannot be written; ValueError: `out` is the store itself, or that one was replaced meanwhile.
    """
    _refuse_itself(store, out)
    with replacing(out) as partial, zipfile.ZipFile(partial, "w") as archive, Columns(store) as file:
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
                spans = slabs(len(dataset), dataset.dtype.itemsize * math.prod(dataset.shape[1:]))
                _write_array(archive, column.path, dataset, (dataset[span] for span in spans))


def _write_array(archive: zipfile.ZipFile, name: str, like: Any, slabs: Iterable[Any]) -> None:
    """One member of an npz, a slab at a time; always dated alike, so that equal stores give equal files."""
    head = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": False, "shape": like.shape}
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, head)
        for slab in slabs:
            member.write(slab.tobytes())


def _refuse_itself(store: LogitStore, out: Path) -> None:
    if out.exists() and out.samefile(store.path):
        raise ValueError(f"{out}: found the store itself, wanted another file to write to; name another one")

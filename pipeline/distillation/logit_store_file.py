"""Opens a logit store file and compares it with the layout and with its hash, without a look at single rows."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.clips.files import FULL, telling_full_disk
from pipeline.distillation.logit_store_format import FORMAT, FORMAT_VERSION, Scalar, leaves_root
from pipeline.distillation.logit_store_layout import COLUMNS, GROUPS, TEXT, Column, Sizes

REMEDY = "run the logits stage again, or `dvc checkout` to bring back the cached one"
SLAB_BYTES = 4 * 1024 * 1024
# What h5py raises for damaged files, by the kind of damage; anything else is a mistake of ours and is let through
DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError)


def open_hdf5(path: Path, mode: Literal["r", "r+"], *, remedy: str) -> h5py.File:
    """Open an HDF5 file; network file systems without locks are let pass.

    Raises:
        OSError: naming the file, what is wrong and the remedy.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found no file; {remedy}")
    try:
        return h5py.File(path, mode, locking="best-effort")
    except BlockingIOError as error:
        raise BlockingIOError(f"{path}: another process is writing it; wait for that one to end") from error
    except DAMAGE as error:
        raise OSError(f"{path}: cannot be opened as HDF5, cut short or damaged ({error}); {remedy}") from error


@contextlib.contextmanager
def telling_hdf5_full(path: Path, *, written: Path | None = None) -> Iterator[None]:
    """`telling_full_disk` for what HDF5 writes: it puts the system's error number into words, under several types.

    Args:
        path: the file that is being made.
        written: where its bytes go until it is whole; None for `path` itself.

    Raises:
        OSError: in words, where the block raised one of a full disk.
    """
    with telling_full_disk(path, written=written):
        try:
            yield
        except (RuntimeError, OSError) as error:
            told = re.search(r"errno = (\d+)", str(error))
            if told is None or int(told[1]) not in FULL:
                raise
            raise OSError(int(told[1]), os.strerror(int(told[1]))) from error


def layout_problems(file: h5py.File) -> list[str]:
    """What in the file is not as the layout says; reads no rows."""
    attributes = {name: plain(value) for name, value in file.attrs.items()}
    if attributes.get("format") != FORMAT:
        return [f"format: found {attributes.get('format')!r}, wanted {FORMAT!r}"]
    if attributes.get("format_version") != FORMAT_VERSION:
        return [f"format_version: found {attributes.get('format_version')!r}, wanted {FORMAT_VERSION}"]
    if attributes.get("complete") is not True:
        return ["complete: found it unset, wanted True; the file was never finished"]
    problems = [problem for group in ("", *GROUPS) for problem in _child_problems(file, group)]
    if problems:
        return problems
    sizes = store_sizes(file)
    return [problem for column in COLUMNS for problem in _column_problems(file[column.path], column, sizes)]


def _child_problems(file: h5py.File, path: str) -> list[str]:
    """Children of a group that are lacking, unknown, of the wrong kind, or no plain members of this file."""
    group = file[path or "/"]
    names = set(group)  # `name in group` would follow a link
    groups = {name for name in GROUPS if name.rpartition("/")[0] == path}
    columns = {column.path for column in COLUMNS if column.path.rpartition("/")[0] == path}
    wanted = {name.rpartition("/")[2]: h5py.Group for name in groups}
    wanted |= {name.rpartition("/")[2]: h5py.Dataset for name in columns}
    problems = []
    for name in sorted(wanted.keys() | names):
        where = f"/{path}/{name}" if path else f"/{name}"
        if name not in wanted:
            problems.append(f"{where}: found an object that the format does not know")
        elif name not in names:
            problems.append(f"{where}: found none, wanted a {wanted[name].__name__.lower()}")
        elif not isinstance(group.get(name, getlink=True), h5py.HardLink):
            problems.append(f"{where}: found a soft or external link, wanted the data in this file")
        elif group.get(name, getclass=True) is not wanted[name]:
            problems.append(f"{where}: found another kind of object, wanted a {wanted[name].__name__.lower()}")
    return problems


def store_sizes(file: h5py.File) -> Sizes:
    """The sizes as the columns have them.

    Raises:
        ValueError: if they cannot be those of a store.
    """
    shapes = {name: file[name].shape for name in ("class_names", "clips/id", "logits", "views/frame_indices")}
    ranks = [len(shape) for shape in shapes.values()]
    if ranks != [1, 1, 2, 2] or not all(math.prod(shape) for shape in shapes.values()):
        raise ValueError(f"shapes: found {shapes}, wanted 1, 1, 2 and 2 dimensions, none of them empty")
    clips, rows = shapes["clips/id"][0], shapes["logits"][0]
    if rows % clips:
        raise ValueError(f"/logits: found {rows} rows, wanted a multiple of the {clips} clips")
    return Sizes(
        clips=clips,
        views=rows // clips,
        frames=shapes["views/frame_indices"][1],
        classes=shapes["class_names"][0],
    )


def _column_problems(dataset: h5py.Dataset, column: Column, sizes: Sizes) -> list[str]:
    """How a dataset differs from its column: type, shape, and bytes that lie elsewhere, behind a filter or nowhere."""
    where, problems = f"/{column.path}", []
    text = h5py.check_string_dtype(dataset.dtype)
    is_text = text is not None and text.encoding == "utf-8" and text.length is None
    if is_text != (column.dtype == TEXT) or (not is_text and dataset.dtype != np.dtype(column.dtype)):
        problems.append(f"{where}: found the type {dataset.dtype}, wanted {column.dtype}")
    if dataset.shape != column.shape(sizes):
        problems.append(f"{where}: found the shape {dataset.shape}, wanted {column.shape(sizes)}")
    properties = dataset.id.get_create_plist()
    if dataset.is_virtual or properties.get_external_count():
        return [*problems, f"{where}: found data of another file, wanted the data in this file"]
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    wanted = [] if column.chunks(sizes) is None else [h5py.h5z.FILTER_FLETCHER32]
    if filters != wanted:
        return [*problems, f"{where}: found the filters {filters}, wanted {wanted}"]
    itemsize = 16 if is_text else dataset.dtype.itemsize  # 16: length and address of a text that lies elsewhere
    if dataset.chunks is None:
        size = math.prod(dataset.shape) * itemsize
    else:  # unwritten chunks read as the fill value without an error
        count = math.prod(math.ceil(n / c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        size = count * (math.prod(dataset.chunks) * itemsize + 4 * len(filters))  # 4: fletcher32
    if dataset.id.get_storage_size() != size:
        problems.append(f"{where}: found {dataset.id.get_storage_size()} bytes stored, wanted {size}")
    elif size > (whole := dataset.file.id.get_filesize()):  # parts that lie on one another would fill the memory
        problems.append(f"{where}: found {size} bytes stored in a file of {whole}; wanted no more than it has")
    return problems


def content_problems(file: h5py.File) -> list[str]:
    """Content that does not match its hash, or that no store may hold even with a matching one."""
    problems, sizes = [], store_sizes(file)
    found, wanted = content_sha256(file), plain(file.attrs.get("content_sha256", ""))
    if found != wanted:
        problems.append(f"content_sha256: found {found}, wanted {wanted!r} as recorded; the content was changed")
    columns = {column.path: texts(file[column.path]) for column in COLUMNS if column.dtype == TEXT and column.dims}
    ids, labels = columns["clips/id"], file["clips/label"][:]
    if any(before >= after for before, after in itertools.pairwise(ids)):
        problems.append("/clips/id: found unsorted or doubled ids")
    if (outside := next((clip_id for clip_id in ids if leaves_root(clip_id)), None)) is not None:
        problems.append(f"/clips/id: found {outside!r}, which leaves the videos' root, wanted a path below it")
    if labels.min() < 0 or labels.max() >= sizes.classes:
        problems.append(f"/clips/label: found {labels.min()} to {labels.max()}, wanted 0 to {sizes.classes - 1}")
    bad = sum(int((~np.isfinite(slab).all(axis=1)).sum()) for slab in _row_slabs(file["logits"]))
    if bad:
        problems.append(f"/logits: found {bad} rows that are not finite, wanted every row written")
    return problems


def content_sha256(file: h5py.File) -> str:
    """One hash of every dataset and attribute in the layout's order, but for `content_sha256` itself.

    Of each object: path, type, shape and attributes sorted by name, as JSON; then of a dataset its values,
    little-endian, a text as its length in 8 bytes and its UTF-8 bytes.

    Raises:
        OSError: naming the first dataset whose bytes do not match their fletcher32.
    """
    digest = hashlib.sha256()
    for path in ("/", *GROUPS, *(column.path for column in COLUMNS)):
        item = file[path]
        attributes = {name: plain(item.attrs[name]) for name in sorted(item.attrs) if name != "content_sha256"}
        is_data = isinstance(item, h5py.Dataset)
        head = [path, str(item.dtype) if is_data else None, list(item.shape) if is_data else None, attributes]
        digest.update(json.dumps(head).encode())
        try:
            for part in _column_bytes(item) if is_data else ():
                digest.update(part)
        except DAMAGE as error:
            raise OSError(f"/{path}: cannot be read, its bytes are damaged ({error})") from error
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """An attribute as a Python value.

    Raises:
        ValueError: if it is neither a scalar nor a list of texts.
    """
    if isinstance(value, np.ndarray) and all(isinstance(item, str) for item in value.flat):
        return value.tolist()
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, Scalar):
        return value
    raise ValueError(f"attribute: found {type(value).__name__}, wanted a plain scalar or a list of texts")


def texts(dataset: h5py.Dataset) -> list[str]:
    """A 1-D column of text.

    Raises:
        ValueError: if it is no UTF-8.
    """
    try:
        return [str(text) for text in dataset.asstr()[:]]
    except UnicodeDecodeError as error:
        raise ValueError(f"{dataset.name}: is no UTF-8 text ({error})") from error


def _row_slabs(dataset: h5py.Dataset) -> Iterator[npt.NDArray[Any]]:
    step = max(1, SLAB_BYTES // (dataset.dtype.itemsize * math.prod(dataset.shape[1:])))
    for start in range(0, dataset.shape[0], step):
        yield dataset[start : start + step]


def _column_bytes(dataset: h5py.Dataset) -> Iterator[bytes]:
    """All bytes of a column, a slab at a time."""
    for slab in _row_slabs(dataset) if dataset.shape else [np.asarray(dataset[()])]:
        if h5py.check_string_dtype(dataset.dtype) is None:
            yield slab.tobytes()
        else:
            for text in slab.flat:
                yield len(text).to_bytes(8, "little") + text

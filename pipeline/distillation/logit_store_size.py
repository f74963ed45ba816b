"""How large a logit store is going to be, from its layout alone. No file is opened here."""

from __future__ import annotations

import math

import numpy as np

from pipeline.distillation.logit_store_format import FINGERPRINT_PREFIX, PROVENANCE_PREFIX, StoreSpec
from pipeline.distillation.logit_store_layout import COLUMNS, GROUPS, README, TEXT, TITLES, Column, Sizes

# Of HDF5's oldest file format, which h5py writes by default; headers were measured on stores of this layout.
CHECKSUM_BYTES = 4  # fletcher32 of a chunk
TEXT_POINTER_BYTES, TEXT_HEADER_BYTES = 16, 16  # variable-length text, kept in a heap
STEP_BYTES = 8  # to whose multiples text and names of attributes are padded
HEAP_BYTES, HEAP_HEADER_BYTES = 4096, 16
NODE_CHILDREN = 64  # most chunks that one node of a dataset's chunk index points to
NODE_FILL = 58  # children of a node that has been filled in order
ATTRIBUTE_BYTES = 64  # header of an attribute, without its name
DATASET_BYTES = 200  # header of a dataset, without its attributes and chunk index
GROUP_BYTES = 1080  # header of a group, its tree and the names of its members


def estimate_bytes(spec: StoreSpec) -> int:
    """Size of the published file in bytes: within 2 % from a megabyte on, within 30 kB below.

    What is not foreseen is how full HDF5 leaves the heaps that text lies in.
    """
    sizes = Sizes(
        clips=len(spec.clips.ids),
        views=spec.num_views,
        frames=spec.frames_per_view,
        classes=len(spec.class_names),
    )
    attributes = [pair for column in COLUMNS for pair in (("description", column.description), ("units", column.units))]
    for group in GROUPS.values():
        for name, value in group.items():
            attributes += [(name, text) for text in ([value] if isinstance(value, str) else value)]
    attributes += [(FINGERPRINT_PREFIX + name, str(value)) for name, value in spec.fingerprint.items()]
    attributes += [(PROVENANCE_PREFIX + name, str(value)) for name, value in spec.provenance.items()]
    texts = [README, *TITLES.values(), *spec.class_names, *spec.clips.ids, *spec.clips.sha256]
    texts += [text for _, text in attributes]
    heap = sum(TEXT_HEADER_BYTES + _rounded_up(len(text.encode()), STEP_BYTES) for text in texts)
    heap = math.ceil(heap / (HEAP_BYTES - HEAP_HEADER_BYTES)) * HEAP_BYTES
    headers = len(COLUMNS) * DATASET_BYTES + len(GROUPS) * GROUP_BYTES
    headers += sum(ATTRIBUTE_BYTES + _rounded_up(len(name) + 1, STEP_BYTES) for name, _ in attributes)
    return heap + headers + sum(_column_bytes(column, sizes) for column in COLUMNS)


def _column_bytes(column: Column, sizes: Sizes) -> int:
    item = TEXT_POINTER_BYTES if column.dtype == TEXT else np.dtype(column.dtype).itemsize
    shape, chunk = column.shape(sizes), column.chunks(sizes)
    if chunk is None:
        return item * math.prod(shape)
    count = math.prod(-(-length // part) for length, part in zip(shape, chunk, strict=True))
    return count * (item * math.prod(chunk) + CHECKSUM_BYTES) + _index_bytes(count, len(shape))


def _index_bytes(chunks: int, dims: int) -> int:
    """Size of the tree that finds a dataset's chunks: all nodes have the same size, whatever they hold."""
    key = 8 + 8 * (dims + 1)
    node = 24 + (NODE_CHILDREN + 1) * key + NODE_CHILDREN * 8
    nodes = level = 1 if chunks <= NODE_CHILDREN else math.ceil(chunks / NODE_FILL)
    while level > 1:
        level = math.ceil(level / NODE_FILL)
        nodes += level
    return nodes * node


def _rounded_up(size: int, step: int) -> int:
    return math.ceil(size / step) * step

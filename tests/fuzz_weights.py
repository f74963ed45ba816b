"""Checkpoints and weights files: valid ones, their parts changed, and pickles that would run code."""

import io
import json
import os
import struct
import zipfile

import torch
from fuzz_bytes import any_file, changed_tree
from hypothesis import strategies as st

from pipeline.training.checkpoint import KEY

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4), "n": torch.tensor(3)}
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "U16", "F8_E4M3", "F8_E8M0", "F4", "C64", "X", "", 5)
NUMBERS = (-1, 0, 1, 3, 8, 10**6, 2**31, 2**60, 2**63, 2**64, 10**30, 1.5, None, "1", [1])
HEADER_LENGTHS = (0, 1, 8, 100, 2**20, 2**31, 2**60, 2**63, 2**64 - 1)


class Payload:
    """Unpickling this with code allowed makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def saved(state, *, new_form=True):
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=new_form)
    return buffer.getvalue()


def take_apart(data):
    """Header and tensors of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put_together(header, tensors, *, length=None):
    """A safetensors file; its header may be text, and of another length than it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + tensors


def with_record(data, record):
    """The same weights with another record."""
    header, tensors = take_apart(data)
    header["__metadata__"][KEY] = record if isinstance(record, str) else json.dumps(record)
    return put_together(header, tensors)


def record_of(data):
    """The record of a checkpoint as plain values."""
    return json.loads(take_apart(data)[0]["__metadata__"][KEY])


@st.composite
def changed_headers(draw, data):
    """A safetensors file whose header says something else of its tensors, or of its own length."""
    header, tensors = take_apart(data)
    names = [name for name in header if name != "__metadata__"]
    for _ in range(draw(st.integers(1, 3))):
        entry = header.get(draw(st.sampled_from(names)), {})
        what = draw(st.sampled_from(["dtype", "shape", "offsets", "name", "length", "metadata", "gone", "tree"]))
        if what == "dtype":
            entry["dtype"] = draw(st.sampled_from(DTYPES))
        elif what == "shape":
            entry["shape"] = draw(st.lists(st.sampled_from(NUMBERS), max_size=4))
        elif what == "offsets":
            entry["data_offsets"] = draw(st.lists(st.sampled_from([*NUMBERS, len(tensors)]), max_size=3))
        elif what == "name":
            header[draw(st.sampled_from(["", "x", "\0", "é", "a" * 70_000, "__metadata__"]))] = entry
        elif what == "length":
            return put_together(header, tensors, length=draw(st.sampled_from(HEADER_LENGTHS)))
        elif what == "metadata":
            header["__metadata__"] = draw(st.sampled_from([None, 1, [], {}, {KEY: 1}, {KEY: "[" * 50_000}, {"x": "y"}]))
        elif what == "gone":
            header.pop(draw(st.sampled_from(names)), None)
        else:
            return put_together(draw(changed_tree(header)), tensors)
    return put_together(header, tensors)


@st.composite
def changed_archives(draw, data):
    """A torch file whose entries are changed, with checksums that fit; packed, doubled or left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = draw(st.sampled_from(names + [name for name in names if name.endswith("data.pkl")] * 3))
        for name in names:
            content = old.read(name)
            if name == chosen:
                how = draw(st.sampled_from(["change", "change", "change", "gone", "twice", "zeros"]))
                if how == "gone":
                    continue
                if how == "change":
                    content = draw(any_file([content]))
                if how == "zeros":
                    content = bytes(draw(st.sampled_from([0, 1, 10_000, 5_000_000])))
                if how == "twice":
                    new.writestr(f"{name}x", content)
            packing = draw(st.sampled_from([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED]))
            new.writestr(zipfile.ZipInfo(name), content, packing)
    return buffer.getvalue()

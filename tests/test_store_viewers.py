"""Programs that know nothing of the logit store show what is in it; h5dump and h5ls do so in test_logit_store.py."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.distillation.logit_store import Block, ClipTable, StoreSpec, block_ranges
from pipeline.distillation.logit_store_writer import ShardWriter, publish

CLIPS, VIEWS, CLASSES = 6, 2, 3
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
VISIDATA, NODE = shutil.which("vd", path=PATH), shutil.which("node")
OPEN_IN_H5WASM = Path(__file__).parent / "viewers" / "h5wasm_open.mjs"


def publish_store(folder, *, classes):
    """A small store, its logits (V*N, K) and its spec; logits end in .25, .5 or .75, which viewers print exactly."""
    rng = np.random.default_rng(0)
    spec = StoreSpec(
        class_names=tuple(f"class {number}" for number in range(classes)),
        clips=ClipTable(
            ids=tuple(f"straße/clip_{number}.mp4" for number in range(CLIPS)),
            labels=np.arange(CLIPS, dtype=np.int32) % classes,
            num_frames=np.full(CLIPS, 30, np.int32),
            sha256=tuple(hashlib.sha256(b"%d" % number).hexdigest() for number in range(CLIPS)),
        ),
        num_views=VIEWS,
        frames_per_view=4,
        fingerprint={"teacher_sha256": "0" * 64},
        provenance={},
    )
    logits = (rng.integers(-40, 40, (VIEWS * CLIPS, classes)) / 4).astype(np.float32)
    with ShardWriter(folder / "shard.h5", spec, CLIPS) as shard:
        for span in block_ranges(spec, CLIPS):
            rows = slice(span.view * CLIPS, (span.view + 1) * CLIPS)
            block = Block(
                logits=logits[rows],
                frame_indices=np.tile(np.arange(4, dtype=np.int32), (CLIPS, 1)),
                crop=np.tile(np.array([1, 2, 32, 32], np.int32), (CLIPS, 1)),
                flip=np.arange(CLIPS) % 2 == 1,
                pixel_crc32=np.arange(CLIPS, dtype=np.uint32),
            )
            shard.write(span.number, block)
    publish(folder / "logits.h5", spec, [folder / "shard.h5"], minimum_top1=0)
    return folder / "logits.h5", logits, spec


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return publish_store(tmp_path_factory.mktemp("store"), classes=CLASSES)


# VisiData


def visidata(path, folder, *rows):
    """What VisiData prints of the sheet that opening these rows, one after the other, leads to: its lines' cells."""
    steps = [{"sheet": "", "col": "", "row": row, "longname": "open-row"} for row in rows]
    log = folder / "open.vdj"
    log.write_text("".join(json.dumps(step) + "\n" for step in steps), encoding="utf-8")
    command = [VISIDATA, "--batch", *(["--play", log] if steps else []), path, "--output", folder / "printed.tsv"]
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "TERM": "xterm", "PATH": PATH, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=home, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    printed = folder / "printed.tsv"
    assert printed.exists(), done.stdout + done.stderr
    return [line.split("\t") for line in printed.read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(VISIDATA is None, reason="VisiData (pip package visidata) is not installed")
def test_visidata_lists_the_groups_and_prints_text_and_numbers(store, tmp_path):
    path, logits, spec = store
    listed = {cells[0]: cells[1:] for cells in visidata(path, tmp_path)}
    assert {"README", "class_names", "clips", "logits", "rows", "summary", "views"} <= set(listed)
    assert listed["logits"] == ["Dataset", str(len(logits))]
    order = [name for name in listed if name != "/"]
    table = visidata(path, tmp_path, order.index("logits"))[1:]
    # Two decimals, as VisiData prints floats; the logits are quarters, so nothing is lost.
    np.testing.assert_array_equal(np.array(table, np.float32), logits)
    ids = visidata(path, tmp_path, order.index("clips"), 0)
    assert [cells[0] for cells in ids] == ["/clips/id", *spec.clips.ids]


# h5wasm, the engine of h5web and myHDF5


def open_in_h5wasm(path):
    """What h5wasm finds, told by tests/viewers/h5wasm_open.mjs."""
    folder = os.environ.get("DLKDD_H5WASM")
    if NODE is None:
        pytest.skip("node is not installed")
    if not folder or not (Path(folder) / "node_modules" / "h5wasm").is_dir():
        pytest.skip("DLKDD_H5WASM names no folder with node_modules/h5wasm (`npm install h5wasm` makes one)")
    command = [NODE, "--input-type=module", "-", path]
    script = OPEN_IN_H5WASM.read_text(encoding="utf-8")
    done = subprocess.run(command, input=script, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_h5wasm_reads_every_column_and_follows_the_default_to_a_plot(store):
    path, logits, spec = store
    found = open_in_h5wasm(path)
    assert found["default"] == "/summary/by_view"
    assert set(found["plots"]) == {f"/summary/{name}" for name in ("by_view", "by_class", "by_row", "confusion")}
    by_view = found["plots"]["/summary/by_view"]
    assert by_view == {"signal": "top1", "shape": [VIEWS], "axes": ["view"], "title": "Teacher's top-1 by view"}
    assert found["plots"]["/summary/confusion"]["shape"] == [CLASSES, CLASSES]
    assert found["unreadable"] == []
    assert found["ids"] == list(spec.clips.ids)
    np.testing.assert_array_equal(np.array(found["logits"], np.float32).reshape(logits.shape), logits)
    assert found["flip"] == [0, 1, 0, 1, 0, 1] * VIEWS


def test_h5wasm_reads_a_store_whose_confusion_was_left_out(tmp_path):
    path, _, _ = publish_store(tmp_path, classes=400)
    found = open_in_h5wasm(path)
    assert found["unreadable"] == []
    assert found["plots"]["/summary/confusion"]["shape"] == [0, 400]
    assert found["default"] == "/summary/by_view"

import csv
import hashlib
import json
import os
import re
import shutil
from dataclasses import replace

import click
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from micro import CPU, Run

from pipeline.cli import main
from pipeline.commands.store import store as group
from pipeline.distillation import (
    logit_store,
    logit_store_check,
    logit_store_file,
    store_diff,
    store_export,
    store_report,
    store_slabs,
)
from pipeline.distillation.logit_store import Block, ClipTable, LogitStore, StoreSpec, block_ranges, verify
from pipeline.distillation.logit_store_check import BadRow, inspect
from pipeline.distillation.logit_store_format import leaves_root
from pipeline.distillation.logit_store_writer import ShardWriter, publish
from pipeline.presets import ARID_CLASSES
from pipeline.store_checks import check_pixels, check_teacher, spread

REMEDY = "run the logits stage again, or `dvc checkout`"
NAMES = ("Run", "=Sit", "Walk")
IDS = ("+x.mp4", "Run/a b.mp4", "Run/b.mp4")
# Rows (view 0: three clips, view 1: three clips); the largest logit is class 0, 1, 2, then 0, 0, 2
LOGITS = [[2, 0, -1.5], [0, 3, 0.1], [0, 0, 4], [1, 0, 0], [5, 0, 1e-20], [-3, -2, -1]]


def make_block(logits, start=0):
    rows = np.arange(start, start + len(logits), dtype=np.int32)
    return Block(
        logits=np.array(logits, np.float32),
        frame_indices=rows[:, None] % 3 + np.array([0, 2, 4, 6], np.int32),
        crop=np.stack([rows % 5, rows % 7, rows * 0 + 20, rows * 0 + 30], axis=1).astype(np.int32),
        flip=rows % 2 == 1,
        pixel_crc32=rows.astype(np.uint32),
    )


def write_store(path, logits=LOGITS, ids=IDS, names=NAMES, labels=(0, 1, 2), **fields):
    """Publish these rows, ordered by (view, clip)."""
    clips = ClipTable(
        ids=tuple(ids),
        labels=np.array(labels, np.int32),
        num_frames=np.full(len(ids), 9, np.int32),
        sha256=tuple(hashlib.sha256(clip_id.encode()).hexdigest() for clip_id in ids),
    )
    spec = StoreSpec(
        class_names=tuple(names),
        clips=clips,
        num_views=len(logits) // len(ids),
        frames_per_view=4,
        fingerprint={"teacher_sha256": "abc", "view_size": 32} | fields,
        provenance={"torch": "2.1"},
    )
    return write_rows(path, spec, make_block(logits))


def write_rows(path, spec, rows):
    """Publish a store of these rows, with checksums, summary and hash that fit them."""
    shard = path.with_name(f"{path.name}.shard")
    with ShardWriter(shard, spec, len(spec.clips.ids)) as writer:
        for span in block_ranges(spec, len(spec.clips.ids)):
            start = span.view * len(spec.clips.ids)
            writer.write(span.number, rows.part(start, start + len(spec.clips.ids)))
    publish(path, spec, [shard], minimum_top1=0.0)
    shard.unlink()
    return path


def forged(path, out, **columns):
    """A copy of a store with other columns, made as carefully as the stage makes one."""
    with h5py.File(path) as file:
        clips = ClipTable(
            ids=tuple(file["clips/id"].asstr()[:]),
            labels=file["clips/label"][:],
            num_frames=file["clips/num_frames"][:],
            sha256=tuple(file["clips/sha256"].asstr()[:]),
        )
        names = ("frame_indices", "crop", "flip", "pixel_crc32")
        rows = Block(logits=file["logits"][:], **{name: file[f"views/{name}"][:] for name in names})
    opened = LogitStore.open(path)
    spec = StoreSpec(
        class_names=opened.class_names,
        clips=clips,
        num_views=opened.num_views,
        frames_per_view=opened.frames_per_view,
        fingerprint=opened.fingerprint,
        provenance=opened.provenance,
    )
    return write_rows(out, spec, replace(rows, **columns))


def rehash(path):
    """Make the content hash fit again."""
    with h5py.File(path, "r+") as file:
        file.attrs["content_sha256"] = logit_store_file.content_sha256(file)


def call(*arguments):
    """Exit code, and all that was printed with the error's message."""
    result = CliRunner().invoke(group, [str(argument) for argument in arguments])
    known = isinstance(result.exception, ValueError | OSError | SystemExit | None)
    assert known, result.exception
    error = "" if isinstance(result.exception, SystemExit | None) else f"Error: {result.exception}"
    return result.exit_code, result.output + error


@pytest.fixture
def path(tmp_path):
    return write_store(tmp_path / "logits.h5")


@pytest.fixture
def in_process(monkeypatch):
    """Spare the child process that looks first; returns the files that it would have looked into."""
    looked = []

    def look(path):
        looked.append(path.name)
        return inspect(path)

    monkeypatch.setattr(logit_store_check, "inspect_in_child", look)
    monkeypatch.setattr(logit_store, "verify_in_child", lambda path: list(look(path).problems))
    return looked


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_configs):
    """A run up to its logits; tests copy it."""
    made = Run(tmp_path_factory.mktemp("run") / "micro", small_configs())
    made.folder.mkdir()
    made.render()
    made.prepare(ARID_CLASSES)
    made.enhancer()
    made.teacher()
    made.logits()
    return made


def test_every_subcommand_and_option_has_help():
    assert set(group.commands) == {"info", "verify", "show", "export", "diff"}
    for name, command in group.commands.items():
        assert command.help
        assert all(isinstance(option, click.Argument) or option.help for option in command.params), name


def test_every_command_looks_in_a_child_first(path, in_process):
    for arguments in (
        ["info", path],
        ["verify", path],
        ["show", path, IDS[0]],
        ["export", path, "--csv", path.with_suffix(".csv")],
    ):
        assert call(*arguments)[0] == 0
    assert call("diff", path, path)[0] == 0
    assert in_process == ["logits.h5"] * 6


# info


def test_info_tells_sizes_gate_and_fields(path):
    code, said = call("info", path)
    size = path.stat().st_size
    assert code == 0
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "rows 6 = 3 clips x 2 views" in lines
    assert "frames 4 a view" in lines
    assert "classes 3: Run, =Sit, Walk" in lines
    # Right in view 0: all three; in view 1: clips 0 and 2
    assert "gate top-1 0.833 over training views, chance 0.333; by view 0.667 to 1.000" in lines
    assert f"file {size} bytes" in lines
    assert "logits 72 bytes, 12 a row" in lines
    assert f"overhead {size - 72} bytes, {(size - 72) / 6:.1f} a row" in lines
    assert {"teacher_sha256 abc", "view_size 32", "torch 2.1"} <= set(lines)
    with h5py.File(path) as file:
        assert f"sha256 {file.attrs['content_sha256']}" in lines


def test_text_of_a_store_cannot_steer_the_terminal(tmp_path, in_process):
    evil = "c\x1b[2J\rd"
    path = write_store(tmp_path / "logits.h5", ids=("a", "b", evil), names=("x", "y", evil), labels=(0, 0, 2))
    for arguments in (["info", path], ["show", path, evil]):
        code, said = call(*arguments)
        assert code == 0
        assert "c?[2J?d" in said
        assert "\x1b" not in said
        assert "\r" not in said


# verify: bad input


def test_a_sound_store_is_verified_and_what_was_checked_is_said(path):
    code, said = call("verify", path)
    assert code == 0
    assert said.startswith(f"{path}: sound: layout, chunk checksums, content hash, completeness, row crc32")


def flip_byte(path):
    with h5py.File(path) as file:
        spot = file["logits"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[spot + 5] ^= 4
    path.write_bytes(content)


def swap_rows(path):
    with h5py.File(path, "r+") as file:
        file["logits"][3:5] = file["logits"][3:5][::-1]
    rehash(path)


def exchange_logits(path):
    with h5py.File(path, "r+") as file:
        attributes = dict(file["logits"].attrs)
        del file["logits"]
        file["logits"] = h5py.ExternalLink("/etc/other.h5", "/logits")
        assert attributes


def drop_column(path):
    with h5py.File(path, "r+") as file:
        del file["views/crop"]


def set_version(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 7


def rename_clip(new):
    def change(path):
        with h5py.File(path, "r+") as file:
            file["clips/id"][0] = new
        rehash(path)

    return change


BAD = {
    "flipped byte": (flip_byte, r"/logits: cannot be read, its bytes are damaged"),
    "swapped rows": (swap_rows, r"found 2 rows that do not match it, the first is row 3 (clip '+x.mp4', view 1)"),
    "truncated": (lambda path: os.truncate(path, 3000), "cannot be opened as HDF5, cut short or damaged"),
    "other version": (set_version, "format_version: found 7, wanted 1"),
    "external link": (exchange_logits, "/logits: found a soft or external link"),
    "missing column": (drop_column, "/views/crop: found none, wanted a dataset"),
    "id with ..": (rename_clip("../a.mp4"), "/clips/id: found '../a.mp4', which leaves the videos' root"),
    "absolute id": (rename_clip("/a.mp4"), "/clips/id: found '/a.mp4', which leaves the videos' root"),
}


@pytest.mark.parametrize("what", BAD)
def test_every_command_refuses_a_bad_file_by_name_with_a_remedy(tmp_path, path, in_process, what):
    change, message = BAD[what]
    sound = shutil.copy(path, tmp_path / "sound.h5")
    change(path)
    before = sorted(tmp_path.iterdir())
    for arguments in (
        ["verify", path],
        ["info", path],
        ["show", path, IDS[1]],
        ["export", path, "--csv", tmp_path / "out.csv", "--npz", tmp_path / "out.npz"],
        ["diff", sound, path],
        ["diff", path, sound],
    ):
        code, said = call(*arguments)
        assert code == 1, arguments
        assert message in said
        error = said[said.index("Error: ") :]
        assert error.startswith(f"Error: {path}: ")
        assert error.count(REMEDY) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_bad_file_ends_the_program_with_1(path, monkeypatch, capsys):
    flip_byte(path)
    monkeypatch.setattr("sys.argv", ["dlkdd", "store", "verify", str(path)])
    monkeypatch.setitem(main.__globals__["cli"].commands, "store", group)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert "lies in a damaged chunk" in printed.out
    assert f"Error: {path}: not sound" in printed.err


def test_a_missing_file_is_named(tmp_path):
    for arguments in (["verify"], ["info"], ["show"], ["export"], ["diff"]):
        more = {"show": ["x"], "export": ["--csv", tmp_path / "x.csv"], "diff": [tmp_path / "other.h5"]}
        code, said = call(*arguments, tmp_path / "none.h5", *more.get(arguments[0], []))
        assert code == 1
        assert f"Error: {tmp_path / 'none.h5'}: found no file, wanted a logit store" in said


@pytest.mark.parametrize(
    ("clip_id", "leaves"),
    [
        ("a/b.mp4", False),
        ("a..b/..c.mp4", False),
        ("/a.mp4", True),
        ("..", True),
        ("a/../../b.mp4", True),
        ("..\\a.mp4", True),
    ],
)
def test_ids_that_leave_the_root_are_told_from_odd_names(clip_id, leaves):
    assert leaves_root(clip_id) is leaves


# verify: the list of bad rows


def test_all_bad_rows_are_listed_with_clip_and_view(path, in_process):
    with h5py.File(path, "r+") as file:
        file["logits"][1, 0] += 1
        file["logits"][2, 0] = np.nan
        file["rows/view"][5] = 0
    rehash(path)
    assert inspect(path).bad_rows == (
        BadRow(row=1, clip="Run/a b.mp4", view=0, fault="does not match its crc32"),
        BadRow(row=2, clip="Run/b.mp4", view=0, fault="does not match its crc32, is not finite"),
        BadRow(row=5, clip="Run/b.mp4", view=1, fault="is out of order"),
    )
    code, said = call("verify", path)
    assert code == 1
    assert "  row 1 (clip 'Run/a b.mp4', view 0): does not match its crc32\n" in said
    assert "3 bad rows; " in said


def test_beyond_a_hundred_bad_rows_the_first_hundred_and_the_number_are_told(tmp_path, in_process):
    ids = [f"{number:03}.mp4" for number in range(80)]
    rng = np.random.default_rng(0)
    path = write_store(tmp_path / "logits.h5", rng.normal(size=(160, 3)), ids=ids, labels=[0] * 80)
    with h5py.File(path, "r+") as file:
        file["views/crop"][5:155, 0] += 1
    rehash(path)
    found = inspect(path)
    assert found.num_bad_rows == 150
    assert [row.row for row in found.bad_rows] == list(range(5, 105))
    _, said = call("verify", path)
    assert said.count("\n  row ") == 100
    assert "  and 50 other bad rows\n" in said


def test_rows_of_a_damaged_chunk_are_listed_beside_swapped_ones(tmp_path):
    ids, wide = [f"{number:03}.mp4" for number in range(80)], 400
    rows = np.random.default_rng(0).normal(size=(80, wide))
    names = [f"class {number}" for number in range(wide)]
    path = write_store(tmp_path / "logits.h5", rows, ids=ids, names=names, labels=[0] * 80)
    with h5py.File(path, "r+") as file:
        length = file["logits"].chunks[0]
        assert 2 * length < 80  # the damage must spare some chunks
        file["views/crop"][0:2] = file["views/crop"][0:2][::-1]
        last = file["logits"].id.get_chunk_info_by_coord(((79 // length) * length, 0))
    rehash(path)
    content = bytearray(path.read_bytes())
    content[last.byte_offset + 9] ^= 1
    path.write_bytes(content)
    found = inspect(path)
    damaged = range(79 // length * length, 80)
    assert [row.row for row in found.bad_rows] == [0, 1, *damaged]
    assert {row.fault for row in found.bad_rows[2:]} == {"lies in a damaged chunk"}
    assert any(f"found {len(damaged)} rows in chunks that do not match their checksum" in p for p in found.problems)


# verify: against the videos


def verify_videos(run, store, count):
    # One thread as in all tests: the number is the whole process's.
    return call("verify", store, "--views", count, "--videos", run.videos, "--threads", 1)


def test_decoded_pixels_of_all_rows_are_the_stored_ones(run):
    code, said = verify_videos(run, run["logits.h5"], 1000)
    assert code == 0
    assert "pixels: 22 rows decoded again, 0 of them differ\n" in said


def test_a_changed_video_is_caught_with_all_its_views(run, tmp_path, in_process):
    copy = run.copy(tmp_path / "copy")
    first, second = LogitStore.open(copy["logits.h5"]).clip_ids[:2]
    shutil.copy(copy.videos / second, copy.videos / first)
    code, said = verify_videos(copy, copy["logits.h5"], 22)
    assert code == 1
    assert f"  row 0 (clip {first!r}, view 0): pixels of crc32 " in said
    assert f"  row 11 (clip {first!r}, view 1): pixels of crc32 " in said
    assert said.count("the video file has changed since\n") == 2
    assert f"Error: {copy['logits.h5']}: found 2 rows of other pixels; bring the videos back" in said
    (copy.videos / first).unlink()
    code, said = verify_videos(copy, copy["logits.h5"], 22)
    assert code == 1
    assert said.count("no such file") == 2


def test_other_pixels_of_an_unchanged_video_are_laid_to_the_decoder(run, tmp_path):
    with h5py.File(run["logits.h5"]) as file:
        checks = file["views/pixel_crc32"][:]
    checks[4] += 1
    path = forged(run["logits.h5"], tmp_path / "forged.h5", pixel_crc32=checks)
    assert verify(path) == []
    (bad,) = check_pixels(LogitStore.open(path), run.videos, 22, seed=0)
    assert (bad.row, bad.view) == (4, 0)
    assert "the video is the same, its decoding or conversion has changed (av " in bad.fault


def test_a_crop_box_outside_the_frame_is_a_bad_row(run, tmp_path):
    with h5py.File(run["logits.h5"]) as file:
        boxes = file["views/crop"][:]
    boxes[7] = [0, 0, 32, 45]  # frames of 32x44
    path = forged(run["logits.h5"], tmp_path / "forged.h5", crop=boxes)
    (bad,) = check_pixels(LogitStore.open(path), run.videos, 22, seed=0)
    message = "crop box (0, 0, 32, 45) is empty or lies outside the frame of (32, 44)"
    assert bad.row == 7
    assert bad.fault.startswith(message)
    with pytest.raises(ValueError, match=rf"forged\.h5: {re.escape(message)}"):
        ask_teacher(run, LogitStore.open(path), 22)


@pytest.mark.parametrize("fields", [{}, {"pixel_path": "1"}])
def test_a_store_of_another_pixel_path_is_not_compared(path, tmp_path, fields):
    other = write_store(tmp_path / "other.h5", **fields)
    with pytest.raises(ValueError, match=r"other\.h5: pixel_path: found .* run the logits stage again"):
        check_pixels(LogitStore.open(other), tmp_path, 1, seed=0)


def test_no_file_is_opened_where_a_clip_id_leaves_the_root(run, path, monkeypatch, tmp_path):
    opened = LogitStore.open(run["logits.h5"])
    opened.clip_ids = ("../a.mp4", *opened.clip_ids[1:])
    monkeypatch.setattr("pipeline.store_checks.decode", lambda *a, **k: pytest.fail("a video was opened"))
    monkeypatch.setattr("pipeline.store_checks.load_recogniser", lambda *a, **k: pytest.fail("a file was opened"))
    with pytest.raises(ValueError, match=r"clip id '\.\./a\.mp4' leaves the videos' root"):
        check_pixels(opened, run.videos, 1, seed=0)
    with pytest.raises(ValueError, match=r"clip id '\.\./a\.mp4' leaves the videos' root"):
        ask_teacher(run, opened, 1)


def test_rows_are_drawn_evenly_and_by_the_seed():
    rows = spread(1000, 10, seed=3)
    assert [row // 100 for row in rows] == list(range(10))
    assert rows == spread(1000, 10, seed=3) != spread(1000, 10, seed=4)
    assert spread(7, 7, seed=0) == spread(7, 100, seed=0) == list(range(7))
    with pytest.raises(ValueError, match="found 0, wanted at least 1"):
        spread(7, 0, seed=0)


def test_what_a_check_needs_is_asked_for(path, tmp_path):
    for given, wanted in (
        (["--views", 1], "need --videos"),
        (["--with-teacher", 1], "need --videos"),
        (["--with-teacher", 1, "--videos", tmp_path], "needs --teacher and --clips"),
    ):
        code, said = call("verify", path, *given)
        assert code == 2
        assert wanted in said
    code, said = call("verify", path, "--views", 1, "--videos", tmp_path / "none", "--threads", 1)
    assert code == 1
    assert "none: found no folder, wanted the root that clip ids are relative to" in said


# verify: against the teacher


def ask_teacher(run, store, count, **changes):
    settings = {"seed": 0, "tolerance": 1e-3, "batch_size": None, "device": CPU} | changes
    return check_teacher(store, run.videos, run["clips.csv"], run["teacher.safetensors"], count, **settings)


def teacher_options(run):
    return ["--with-teacher", 22, "--teacher", run["teacher.safetensors"], "--clips", run["clips.csv"], "--threads", 1]


def test_the_teacher_gives_the_same_bits_in_the_same_blocks(run):
    found = ask_teacher(run, LogitStore.open(run["logits.h5"]), 22, batch_size=4, tolerance=0.0)
    assert (found.rows, found.batch, found.same_top1, found.largest, found.bad_rows) == (22, 4, 22, 0.0, ())


def test_few_rows_take_the_whole_blocks_that_hold_them(run):
    # 11 clips a view in blocks of 4, 4 and 3: five rows are two blocks, one of each half of the store
    found = ask_teacher(run, LogitStore.open(run["logits.h5"]), 5, batch_size=4, tolerance=0.0)
    assert found.rows in (7, 8)
    assert found.bad_rows == ()


def test_the_teacher_agrees_to_the_bit_in_the_blocks_that_the_store_records(run, in_process):
    code, said = call("verify", run["logits.h5"], "--videos", run.videos, *teacher_options(run))
    assert code == 0
    assert "teacher: 22 rows forwarded again, up to 4 at once: largest difference 0 " in said
    assert "same top-1 in 22\n" in said


def test_logits_that_were_altered_consistently_are_reported(run, tmp_path, in_process):
    with h5py.File(run["logits.h5"]) as file:
        logits = file["logits"][:]
    logits[13, 2] += 0.5
    path = forged(run["logits.h5"], tmp_path / "forged.h5", logits=logits)
    assert verify(path) == []
    code, said = call("verify", path, "--videos", run.videos, *teacher_options(run))
    assert code == 1
    clip = LogitStore.open(path).clip_ids[2]
    # 0.5 plus the last bits of float32
    assert f"  row 13 (clip {clip!r}, view 1): the teacher's logits differ by up to 0.5 (tolerance 0.001)\n" in said
    assert f"Error: {path}: found 1 rows of other logits than the teacher's" in said
    code, said = call("verify", path, "--videos", run.videos, *teacher_options(run), "--tolerance", 0.6)
    assert code == 0


def test_the_teacher_of_another_store_is_refused(run, tmp_path):
    copy = run.copy(tmp_path / "copy", run.configs)
    with h5py.File(copy["logits.h5"], "r+") as file:
        file.attrs["fingerprint_teacher_sha256"] = "0" * 64
    rehash(copy["logits.h5"])
    with pytest.raises(ValueError, match="logits of another making: teacher_sha256: found '0000"):
        ask_teacher(run, LogitStore.open(copy["logits.h5"]), 1)


def test_the_teacher_that_enhances_views_agrees_too(run, tmp_path, small_configs):
    copy = run.copy(tmp_path / "copy", small_configs(enhancer={"on": "view"}))
    copy.teacher()
    copy.logits()
    found = ask_teacher(copy, LogitStore.open(copy["logits.h5"]), 22, batch_size=4, tolerance=0.0)
    assert (found.rows, found.bad_rows) == (22, ())


# show


def test_soft_targets_of_a_clip_are_the_hand_computed_ones(path, in_process):
    code, said = call("show", path, "Run/a b.mp4", "--view", 0, "--temperature", 2)
    assert code == 0
    powers = np.exp(np.array([0, 3, 0.1]) / 2)
    run, sit, walk = powers / powers.sum()
    assert said.splitlines() == [
        "Run/a b.mp4",
        "label 1 (=Sit)",
        "",
        "view 0: flip yes, crop 1 1 20 30 (top left height width)",
        "frames 1-7 step 2 (4)",
        "softmax(z / 2):",
        f"> =Sit                     {sit:.4f} {'#' * round(40 * sit)}",
        f"  Walk                     {walk:.4f} {'#' * round(40 * walk)}",
        f"  Run                      {run:.4f} {'#' * round(40 * run)}",
    ]


def test_all_views_are_shown_and_the_label_always(path, in_process):
    _, said = call("show", path, "Run/a b.mp4", "--top", 1)
    assert [line for line in said.splitlines() if line.startswith("view")] == [
        "view 0: flip yes, crop 1 1 20 30 (top left height width)",
        "view 1: flip no, crop 4 4 20 30 (top left height width)",
    ]
    # In view 1 the teacher says Run; the label takes its place.
    assert said.count("> =Sit") == 2
    assert said.count("  and 2 other classes") == 2


def test_lines_fit_80_columns_whatever_the_names(tmp_path, in_process):
    names = ["a class of a very long name " * 4, "行" * 40, "e\u0301" * 60, *(f"class {n}" for n in range(60))]
    logits = np.full((1, 63), -9.0)
    logits[0, :3] = [9, 3, 2]
    path = write_store(tmp_path / "logits.h5", logits, ids=["a.mp4"], names=names, labels=[1])
    code, said = call("show", path, "a.mp4", "--top", 4)
    assert code == 0
    wide = {line: len(line) + line.count("行") - line.count("\u0301") for line in said.splitlines()}
    assert max(wide.values()) <= 80
    assert f"> {'行' * 12} 0." in said


def test_an_unknown_clip_is_answered_with_the_nearest(path, in_process):
    code, said = call("show", path, "Run/a_b.mp4")
    assert code == 1
    assert f"{path}: found no clip 'Run/a_b.mp4' among 3; the nearest are 'Run/a b.mp4', 'Run/b.mp4'" in said
    _, said = call("show", path, "b.mp4")
    assert "the nearest are 'Run/a b.mp4', 'Run/b.mp4'" in said
    assert (
        store_report.nearest("Wlak/b_3.mp4", [f"Walk/{n}_3.mp4" for n in "abc"] + ["Wave/b_3.mp4"])[0] == "Walk/b_3.mp4"
    )
    _, said = call("show", path, "zzz")
    assert said.endswith("found no clip 'zzz' among 3")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--temperature", 0], "temperature: found 0.0, wanted a finite number above 0"),
        (["--temperature", "nan"], "temperature: found nan"),
        (["--view", 2], "found no row of clip 'Run/b.mp4', view 2, wanted one of 3 clips and views 0 to 1"),
    ],
)
def test_what_cannot_be_shown_is_refused(path, in_process, more, message):
    code, said = call("show", path, "Run/b.mp4", *more)
    assert code == 1
    assert message in said


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([0, 1, 2, 3], "0-3 (4)"),
        ([4], "4 (1)"),
        ([1, 2], "1, 2 (2)"),
        ([0, 2, 4, 5, 6, 7], "0-4 step 2, 5-7 (6)"),
        ([7, 7, 7, 0, 1, 2], "7, 7, 7, 0-2 (6)"),
        ([3, 2, 1], "3, 2, 1 (3)"),
    ],
)
def test_frame_indices_are_shortened_without_loss(indices, text):
    assert store_report.shortened(indices) == text


# export


def test_csv_holds_every_row_and_no_formula(path, tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(store_slabs, "SLAB_BYTES", 800)  # two rows at a time
    code, said = call("export", path, "--csv", tmp_path / "out.csv")
    assert code == 0
    assert f"{tmp_path / 'out.csv'}: 6 rows, " in said
    assert (tmp_path / "out.csv").read_text() == (
        "clip,label,class,view,flip,crop,logit_Run,logit_=Sit,logit_Walk\n"
        "'+x.mp4,0,Run,0,0,0 0 20 30,2.0,0.0,-1.5\n"
        "Run/a b.mp4,1,'=Sit,0,1,1 1 20 30,0.0,3.0,0.1\n"
        "Run/b.mp4,2,Walk,0,0,2 2 20 30,0.0,0.0,4.0\n"
        "'+x.mp4,0,Run,1,1,3 3 20 30,1.0,0.0,0.0\n"
        "Run/a b.mp4,1,'=Sit,1,0,4 4 20 30,5.0,0.0,1e-20\n"
        "Run/b.mp4,2,Walk,1,1,0 5 20 30,-3.0,-2.0,-1.0\n"
    )


def test_logits_survive_csv_bit_for_bit(tmp_path, in_process):
    values = np.random.default_rng(0).integers(0, 2**32, 3000, dtype=np.uint32).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 1e30)][:2400].reshape(800, 3)
    path = write_store(tmp_path / "logits.h5", values, ids=[f"{n:03}" for n in range(800)], labels=[0] * 800)
    call("export", path, "--csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        read = np.array([row[6:] for row in list(csv.reader(file))[1:]]).astype(np.float32)
    assert read.tobytes() == values.tobytes()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_every_start_of_a_formula_is_disarmed(tmp_path, in_process, start):
    path = write_store(tmp_path / "logits.h5", names=("Run", f"{start}1+1", "Walk"))
    call("export", path, "--csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[2][2] == f"'{start}1+1"
    assert not any(cell.startswith(("=", "+", "@", "\t")) for row in rows for cell in row)


def test_npz_holds_every_dataset_under_its_name(path, tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(store_slabs, "SLAB_BYTES", 30)  # one or two rows at a time
    assert call("export", path, "--npz", tmp_path / "out.npz")[0] == 0
    with np.load(tmp_path / "out.npz") as arrays, h5py.File(path) as file:
        datasets = {}
        file.visititems(lambda name, item: datasets.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        assert set(arrays) == {*datasets, "attributes"}
        for name, dataset in datasets.items():
            is_text = dataset.dtype == object
            wanted = np.array(dataset.asstr()[()], np.str_) if is_text else dataset[()]
            np.testing.assert_array_equal(arrays[name], wanted)
            assert is_text or arrays[name].dtype == dataset.dtype
        attributes = json.loads(str(arrays["attributes"]))
        assert attributes["fingerprint_view_size"] == 32
        assert attributes["content_sha256"] == file.attrs["content_sha256"]


def test_equal_stores_give_equal_copies(path, tmp_path, in_process):
    for name in ("a", "b"):
        call("export", path, "--csv", tmp_path / f"{name}.csv", "--npz", tmp_path / f"{name}.npz")
    for suffix in (".csv", ".npz"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("flag", ["--csv", "--npz"])
def test_a_copy_never_replaces_the_store_and_never_stays_half_written(path, tmp_path, in_process, flag):
    before = path.read_bytes()
    code, said = call("export", path, flag, path)
    assert code == 1
    assert f"{path}: found the store itself, wanted another file to write to" in said
    assert path.read_bytes() == before
    out = tmp_path / "out"
    out.write_text("old")
    opened = store_report.open_store(path)
    write_store(path, logits=[[1, 2, 3]] * 3)
    write = {"--csv": store_export.export_csv, "--npz": store_export.export_npz}[flag]
    with pytest.raises(ValueError, match="found another store than the one checked before"):
        write(opened, out)
    assert out.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["logits.h5", "out"]


def test_export_without_a_form_is_wrong_usage(path):
    code, said = call("export", path)
    assert code == 2
    assert "give --csv OUT.csv, --npz OUT.npz or both" in said


# diff


def test_a_store_equals_itself(path, in_process):
    code, said = call("diff", path, path)
    assert code == 0
    assert said.splitlines() == [
        "rows         6 in both, 0 only in A, 0 only in B",
        "difference   largest 0, mean 0",
        "same top-1   1.0000 of the rows in both",
        "changed      0 clips have another top-1",
        "fields       0 differ",
    ]


def test_difference_is_the_hand_computed_one(path, tmp_path, in_process, monkeypatch):
    # B: another clip before, none of "+x.mp4", one view more; of the common rows one is changed in two logits
    ids = ("AAA.mp4", "Run/a b.mp4", "Run/b.mp4")
    changed = [[9, 9, 9], [0, 3, 0.1], [4.5, 0, 4], [9, 9, 9], [5, 0, 0], [-3, -2, -1.25], *[[9, 9, 9]] * 3]
    other = write_store(tmp_path / "b.h5", changed, ids=ids, view_size=16, new=True)
    code, said = call("diff", path, other)
    assert code == 0
    # 4.5 and 0.25 in 4 rows of 3 logits; 1e-20 is nothing beside them
    assert said.splitlines() == [
        "rows         4 in both, 2 only in A, 5 only in B",
        f"difference   largest 4.5, mean {4.75 / 12:.6g}",
        "same top-1   0.7500 of the rows in both",
        "changed      1 clips have another top-1",
        "  Run/b.mp4: Walk -> Run in view 0",
        "fields       2 differ",
        "  fingerprint new: none in A, True in B",
        "  fingerprint view_size: 32 in A, 16 in B",
    ]
    whole = store_diff.compare(LogitStore.open(path), LogitStore.open(other))
    monkeypatch.setattr(store_slabs, "SLAB_BYTES", 24)  # one row at a time
    assert store_diff.compare(LogitStore.open(path), LogitStore.open(other)) == whole


def test_changed_clips_are_listed_up_to_the_limit(tmp_path, in_process):
    ids = [f"{number:02}.mp4" for number in range(30)]
    a = write_store(tmp_path / "a.h5", [[1, 0, 0]] * 60, ids=ids, labels=[0] * 30)
    b = write_store(tmp_path / "b.h5", [[0, 0, 1]] * 60, ids=ids, labels=[0] * 30)
    _, said = call("diff", a, b)
    assert "same top-1   0.0000" in said
    assert "changed      30 clips have another top-1\n" in said
    assert "  00.mp4: Run -> Walk in view 0 and 1 other views\n" in said
    assert said.count("Run -> Walk") == 20
    assert "  and 10 other clips\n" in said
    assert call("diff", a, b, "--limit", 2)[1].count("Run -> Walk") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("Run", "=Sit", "Jump")}, "found 3 classes with 'Jump', wanted 3 classes with 'Walk'"),
        ({"names": ("=Sit", "Run", "Walk")}, "found 3 classes with '=Sit', 'Run', 'Walk', wanted"),
        ({"ids": ("x", "y", "z")}, "found no clip of "),
    ],
)
def test_stores_that_cannot_be_compared_exit_with_1(path, tmp_path, in_process, changes, message):
    other = write_store(tmp_path / "b.h5", **changes)
    code, said = call("diff", path, other)
    assert code == 1
    assert f"Error: {other}: {message}" in said
    assert "compare stores of the same" in said

"""Videos and folders of any name: each works from prepare to evaluate and in every tool, or is refused by name.

And what is no video but names others, a playlist or a script, opens nothing else.
"""

import ast
import contextlib
import csv
import json
import os
import re
import socket
import struct
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from micro import Run
from random_checkpoint import write_checkpoint
from test_hostile_output import run_main

from pipeline.clips.clip_index import read_clips
from pipeline.clips.stream import write_stream
from pipeline.clips.survey import survey_all
from pipeline.clips.survey_entries import entries_of_folder
from pipeline.clips.survey_video import BadVideo
from pipeline.clips.video import decode, write_video
from pipeline.distillation.logit_store import LogitStore
from pipeline.inference import export
from pipeline.inference.parity import Parity
from pipeline.pages.run_files import read_run
from pipeline.presets import write_params

ROOT = Path(__file__).parents[1]

TEXT_NAMES = (
    "two  blanks .mp4",
    "quotes '\".mp4",
    "$(touch x) `touch x`.mp4",
    "; touch x & | > < *?[a].mp4",
    "-o.mp4",
    "--help.mp4",
    "%03d %s.mp4",
    "#a?b=c.mp4",
    "=1+1,2.mp4",
    "ünï 走る 😀 a\u0301.mp4",
    "http:x.mp4",
    "concat:a.mp4|b.mp4",
    "file:a.mp4",
    "~.mp4",
    "x" * 251 + ".mp4",
)
"""Of files that go through the whole pipeline: text without control codes."""
CODE_NAMES = (
    "line\nline.mp4",
    "tab\ttab.mp4",
    "\x1b[31mred\x1b[0m\x07.mp4",
    "back\rforth.mp4",
    "right\u202eleft.mp4",
    "\x9bone\u2028two\x85.mp4",
    os.fsdecode(b"caf\xe9\xff.mp4"),
)
PREDICT = ("predict", "--device", "cpu", "--threads", "1")
CLASSES = ("=1+1 <b>&amp;|`$_%", "'quoted' $(touch x); \"q\" -")


def spell(name):
    """The bytes of a name as they may be told: without codes, whatever way they are escaped."""
    return re.sub(r"[^ -~]+", "", name)


def write_frames(path, frames, *, fps):
    with write_stream(path) as add:
        for index, pixels in enumerate(frames):
            add(pixels, Fraction(index, fps), Fraction(1, fps))


def can_be_named(folder, name):
    try:
        (folder / name).write_bytes(b"")
    except OSError:
        return False
    (folder / name).unlink()
    return True


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Bytes of videos of other content each: `content(seed)`."""
    folder = tmp_path_factory.mktemp("content")

    def make(seed):
        frames = np.random.default_rng(seed).integers(0, 60, (6, 32, 44, 3), dtype=np.uint8)
        write_video(folder / f"{seed}.mp4", frames, fps=30, lossless=True)
        return (folder / f"{seed}.mp4").read_bytes()

    return make


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "student.safetensors", classes=CLASSES)


@pytest.fixture(scope="module")
def done(tmp_path_factory, small_configs, content):
    """A finished run of files and classes with these names."""
    one_epoch = {"epochs": 1}
    enhancer = {"name": "gamma", "on": "view"}
    configs = small_configs(teacher=one_epoch, student=one_epoch, enhancer=enhancer, evaluate={"stress_ev": []})
    run = Run(tmp_path_factory.mktemp("hostile names") / "data/$(touch x) ' run", configs)
    for seed, name in enumerate(TEXT_NAMES):
        # Ids begin with it: what a spreadsheet would take for a formula, and a command for an option.
        subset, class_name = "-test" if seed % 3 == 2 else "=train", CLASSES[seed // 3 % 2]
        path = run.videos / subset / class_name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(seed))
    run.prepare(CLASSES, train=run.videos / "=train", test=run.videos / "-test")
    for stage in ("enhancer", "teacher", "logits", "student", "baseline", "evaluate"):
        getattr(run, stage)()
    return run


def listed(run):
    return sorted(path.relative_to(run.videos).as_posix() for path in run.videos.rglob("*.mp4"))


# --- the pipeline and its tools ---


def test_any_text_is_a_name_from_prepare_to_evaluate(done, tmp_path, small_params, monkeypatch):
    assert len(listed(done)) == len(TEXT_NAMES)
    clips = read_clips(done["clips.csv"])
    assert sorted(clip.id for clip in clips) == listed(done)
    assert {clip.class_name for clip in clips} == set(CLASSES)
    tested = {clip.id: clip.class_name for clip in clips if clip.subset == "test"}
    assert {answer.id: answer.class_name for answer in read_run(done.folder).answers} == tested
    trained = sorted(clip.id for clip in clips if clip.subset == "train")
    assert list(LogitStore.open(done["logits.h5"]).clip_ids) == trained
    write_params(tmp_path / "params.yaml", small_params(), name="demo", force=False)
    done.report(tmp_path / "params.yaml")
    # A frame of each of the surest clips was found by its name.
    assert done["report.html"].read_text().count("<img") > 4
    assert not list(done.folder.parents[1].rglob("x"))


def test_the_store_commands_take_any_text(done, tmp_path):
    store = LogitStore.open(done["logits.h5"])
    for clip_id in store.clip_ids[::5]:
        # Click would take a name that begins so for an option.
        result = run_main("store", "show", done["logits.h5"], "--view", "0", "--", clip_id)
        assert (result.code, result.err) == (0, ""), clip_id
        assert result.out.splitlines()[0] == clip_id
    made = run_main(
        "store", "export", done["logits.h5"], "--csv", tmp_path / "=a.csv", "--npz", tmp_path / "$(x) ' a.npz"
    )
    assert made.code == 0, made.err
    with (tmp_path / "=a.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert {row[0] for row in rows} == {f"'{clip_id}" for clip_id in store.clip_ids}
    assert {row[2] for row in rows} == {f"'{name}" for name in CLASSES}
    with np.load(tmp_path / "$(x) ' a.npz") as arrays:
        assert tuple(arrays["clips/id"].tolist()) == store.clip_ids
    verified = run_main("store", "verify", done["logits.h5"], "--views", "8", "--videos", done.videos, "--threads", 1)
    assert verified.code == 0, verified.err
    assert "8 rows decoded again, 0 of them differ" in verified.out


def refusal_of(run):
    """What prepare says against the run's videos; None where it takes them."""
    try:
        run.prepare(("a", "b"), train=run.videos / "train", test=run.videos / "test")
    except ValueError as error:
        return str(error)
    return None


def test_a_name_that_the_pipelines_files_cannot_hold_is_refused_before_anything_is_decoded(
    tmp_path, small_configs, content
):
    """clips.csv and the logit store hold UTF-8: a name of other bytes must not cost the hours until it is met."""
    run = Run(tmp_path / "run", small_configs())
    for seed, (subset, class_name) in enumerate([(s, c) for s in ("train", "test") for c in ("a", "b")]):
        path = run.videos / subset / class_name / f"{seed}.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(content(seed))
    names = [name for name in CODE_NAMES if can_be_named(run.videos, name)]
    for seed, name in enumerate(names):
        (run.videos / "train/a" / name).write_bytes(content(10 + seed))
    refused = []
    while said := refusal_of(run):
        told = re.sub(r"\\(x|u)[0-9a-f]+|\\.", "", said)
        (name,) = [name for name in names if name not in refused and spell(name) in told]
        refused.append(name)
        # Before the videos were looked into: nothing is kept of them.
        assert not list(run.folder.rglob("probed.jsonl"))
        (run.videos / "train/a" / name).unlink()
    taken = [f"train/a/{name}" for name in names if name not in refused]
    assert {clip.id for clip in read_clips(run["clips.csv"])} >= set(taken)
    # A carriage return, at which clips.csv would break, and what is no text.
    assert {CODE_NAMES[3], CODE_NAMES[-1]} & set(names) <= set(refused)


def test_inspect_sees_every_name(tmp_path, content):
    names = [name for name in (*TEXT_NAMES, *CODE_NAMES) if can_be_named(tmp_path, name)]
    for seed, name in enumerate(names):
        path = tmp_path / "set" / CLASSES[seed % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(seed % 3))
    outs = {end: tmp_path / f"-- $(touch x) '.{end}" for end in ("html", "json")}
    result = run_main(
        "inspect", tmp_path / "set", "--html", outs["html"], "--json", outs["json"], "--processes", 1, "--per-class", 1
    )
    assert result.code == 0, result.err
    found = json.loads(outs["json"].read_text())
    assert sorted(Path(video["id"]).name for video in found["videos"]) == sorted(names)
    assert {video["class_name"] for video in found["videos"]} == set(CLASSES)
    assert outs["html"].is_file()


def test_predict_answers_and_draws_every_name(tmp_path, content, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [name for name in (*TEXT_NAMES, *CODE_NAMES) if can_be_named(tmp_path, name)]
    videos = Path("-videos $(touch x)")
    videos.mkdir()
    for seed, name in enumerate(names):
        (videos / name).write_bytes(content(seed % 2))
    too_long = run_main(*PREDICT, checkpoint, f"./{videos}", "--save-video", "seen")
    assert (too_long.code, too_long.out) == (1, "")
    assert re.search("Error: .*x{251}.mp4: found a name of 255 bytes for its overlay, wanted at most 249", too_long.err)
    answers = run_main(*PREDICT, checkpoint, f"./{videos}", "--format", "csv", "--out", "-answers")
    assert answers.code == 0, answers.err
    with Path("-answers").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + len(names)
    assert rows[0][-2:] == [f"p_{name}" for name in CLASSES]
    assert {row[6] for row in rows[1:]} <= {f"'{name}" for name in CLASSES}
    (long_name,) = [name for name in names if name.startswith("xxx")]
    (videos / long_name).unlink()
    names.remove(long_name)
    drawn = run_main(*PREDICT, checkpoint, f"./{videos}", "--save-video", "seen", "--out", "-answers")
    assert drawn.code == 0, drawn.err
    sources = [json.loads(line)["source"] for line in Path("-answers").read_text().splitlines()]
    assert sorted(Path(source).name for source in sources) == sorted(names)
    assert sorted(path.name for path in Path("seen").iterdir()) == sorted(names)
    assert [len(decode(path)) for path in Path("seen").iterdir()] == [6] * len(names)
    assert not (tmp_path / "x").exists()


def test_a_list_and_an_argument_name_any_file(tmp_path, content, checkpoint, monkeypatch):
    """In a list a name ends with its line, so names that hold one go as arguments."""
    monkeypatch.chdir(tmp_path)
    names = [name for name in (*TEXT_NAMES, *CODE_NAMES) if can_be_named(tmp_path, name)]
    for name in names:
        (tmp_path / name).write_bytes(content(0))
    on_lines = [name for name in names if not re.search("[\r\n\t\ud800-\udfff]", name)]
    Path("list.txt").write_text("\n".join(on_lines) + "\n", encoding="utf-8")
    result = run_main(*PREDICT, checkpoint, "list.txt")
    assert result.code == 0, result.err
    assert [json.loads(line)["source"] for line in result.out.splitlines()] == on_lines
    result = run_main(*PREDICT, checkpoint, "--", *names)
    assert result.code == 0, result.err
    assert [json.loads(line)["source"] for line in result.out.splitlines()] == names
    by_bytes = [name for name in names if not re.search("[\r\n]", name)]
    result = run_main(*PREDICT, checkpoint, "-", stdin=b"".join(os.fsencode(name) + b"\n" for name in by_bytes))
    assert result.code == 0, result.err
    assert [json.loads(line)["source"] for line in result.out.splitlines()] == by_bytes


def test_export_takes_any_name_and_says_it(tmp_path, content, monkeypatch):
    """Of files alone: the graph, which takes seconds, knows no name."""
    for name, stub in {
        "as_graph": lambda *_, **__: None,
        "has_conv3d": lambda _: False,
        "write_graph": lambda _, path, __: path.write_bytes(b"graph"),
        "open_graph": lambda *_: None,
        "measure": lambda *_: Parity(largest_difference=0.0, largest_logit=1.0, relative=0.0),
    }.items():
        monkeypatch.setattr(export, name, stub)
    named = tmp_path / "'a' $(touch x) \u202e"
    named.mkdir()
    checkpoint = write_checkpoint(named / "student.safetensors", classes=CLASSES)
    videos = [named / name for name in ("走る\n.mp4", CODE_NAMES[-1], TEXT_NAMES[2]) if can_be_named(named, name)]
    for path in videos:
        path.write_bytes(content(0))
    made = export.run(checkpoint, form="torch", out=named / "-m;.pt2", videos=videos)
    about = json.loads(made.sidecar.read_text(encoding="utf-8"))
    assert about["parity"]["clips"] == [path.name for path in videos]
    assert about["classes"] == list(CLASSES)


def test_no_command_line_is_ever_given_to_a_shell():
    """Names reach other programs as single arguments, or not at all."""
    found, calls = [], 0
    for path in sorted(file for folder in ("pipeline", "stages") for file in (ROOT / folder).rglob("*.py")):
        for problem, is_call in shell_uses(path.read_text(encoding="utf-8")):
            calls += is_call
            found += [f"{path.relative_to(ROOT)}: {problem}"] if problem else []
    assert found == []
    assert calls >= 3  # git, nvidia-smi, Python: else this test sees nothing


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess\nsubprocess.run(['a'], shell=True)",
        "import subprocess\nsubprocess.run('a b')",
        "import subprocess\nsubprocess.Popen(f'a {name}')",
        "import subprocess\nsubprocess.check_output('a ' + name)",
        "import subprocess as s\ns.call('a %s' % name)",
        "from subprocess import run\nrun(' '.join(names))",
        "import subprocess\nsubprocess.getoutput(['a'])",
        "import os\nos.system(name)",
        "import os as o\no.popen(name)",
        "from os import system\nsystem(name)",
        "import asyncio\nasyncio.create_subprocess_shell(name)",
        "import subprocess\nsubprocess.run(**options)",
        "import pty\npty.spawn(name)",
    ],
)
def test_a_shell_would_be_seen(code):
    assert [problem for problem, _ in shell_uses(code) if problem]


SHELLS = {
    "os": {"system", "popen", "execl", "execlp", "spawnl", "spawnlp"},
    "subprocess": {"getoutput", "getstatusoutput"},
    "asyncio": {"create_subprocess_shell"},
    "pty": {"spawn"},
    "commands": {"getoutput"},
}


def shell_uses(code):
    """(problem, whether it is a call of subprocess) for everything in a module that starts a program."""
    tree, modules, names = ast.parse(code), {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            module, name = modules.get(function.value.id), function.attr
        else:
            module, name = names.get(getattr(function, "id", ""), (None, None))
        if name in SHELLS.get(module, ()):
            yield f"{module}.{name}", False
        elif module == "subprocess":
            yield misused(node), True


def misused(call):
    if any(keyword.arg is None or (keyword.arg == "shell" and ast.unparse(keyword.value) != "False")
           for keyword in call.keywords):  # fmt: skip
        return "shell=, or options that may hold it"
    command = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "args"), None)
    # A name may hold a text, which without shell=True is the name of a program and goes to no shell.
    return "" if isinstance(command, ast.List | ast.Name | ast.BinOp) and not is_text(command) else "a command as text"


def is_text(node):
    if isinstance(node, ast.BinOp):
        return not isinstance(node.op, ast.Add) or is_text(node.left) or is_text(node.right)
    return isinstance(node, ast.JoinedStr | ast.Constant | ast.Call)


# --- what names other files ---


@contextlib.contextmanager
def counting_server():
    """A port that answers nobody; gives it, and a list that grows with every connection."""
    came, listener = [], socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            came.append(1)
            connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1], came
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def box(kind, *parts):
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def external_movie(content, reference):
    """A movie without data of its own, whose data reference names another place."""
    at = content.index(b"mdat") - 4
    (size,) = struct.unpack_from(">I", content, at)
    content = content[: at + 8] + bytes(size - 8) + content[at + size :]
    at = content.index(b"dref") - 4
    (size,) = struct.unpack_from(">I", content, at)
    changed = content[:at] + box(b"dref", struct.pack(">II", 0, 1), reference) + content[at + size :]
    place = at
    for kind in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        place = changed.rindex(kind, 0, place) - 4
        (size,) = struct.unpack_from(">I", changed, place)
        size += len(changed) - len(content)
        changed = changed[:place] + struct.pack(">I", size) + changed[place + 4 :]
    return changed


def alias(place):
    """A data reference as an alias of a Macintosh: 154 bytes, then items; item 2 is a whole path."""
    path = str(place).encode()
    item = struct.pack(">hh", 2, len(path)) + path + bytes(len(path) % 2)
    return box(b"alis", bytes(154), item, struct.pack(">hh", -1, 0))


def hostile_files(target, port):
    """(name, bytes) of files that name `target` or a server at `port`, in the ways that a reader might follow."""
    movie = target.read_bytes()
    for kind, place in {
        "path": str(target),
        "name": target.name,
        "url": f"file:{target}",
        "server": f"http://127.0.0.1:{port}/a.ts",
    }.items():
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-VERSION:3\n#EXTINF:1,\n{place}\n#EXT-X-ENDLIST\n"
        texts = {
            "m3u8": playlist,
            "key": playlist.replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{place}"\n#EXTINF'),
            "m3u": f"{place}\n",
            "ffconcat": f"ffconcat version 1.0\nfile '{place}'\n",
            "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
            f'bandwidth="1"><BaseURL>{place}</BaseURL></Representation></AdaptationSet></Period></MPD>',
            "asx": f'<asx version="3.0"><entry><ref href="{place}"/></entry></asx>',
            "ref": f"[Reference]\nRef1={place}\n",
            "pls": f"[playlist]\nFile1={place}\nNumberOfEntries=1\n",
        }
        for form, text in texts.items():
            yield f"{kind}-{form}.mp4", text.encode()
            # Some are known by their suffix alone.
            yield f"{kind}.{form}", text.encode()
        yield f"{kind}-dref.mov", external_movie(movie, box(b"url ", bytes(4), place.encode(), b"\0"))
        yield f"{kind}-alias.mov", external_movie(movie, alias(place))
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    for name in ("sdp.mp4", "a.sdp"):
        yield name, f"{sdp}m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n".encode()
    yield "rtsp.mp4", f"rtsptextRTSP://127.0.0.1:{port}/a\n".encode()


def test_what_names_other_files_opens_none_of_them(tmp_path, content, checkpoint, small_configs):
    """As clip, in a survey and in predict each is refused by name, and no connection comes."""
    run = Run(tmp_path / "run", small_configs())
    target = run.videos / "train/a/target.mp4"
    target.parent.mkdir(parents=True)
    target.write_bytes(content(0))
    with counting_server() as (port, came):
        hostile = dict(hostile_files(target, port))
        for name, data in hostile.items():
            (target.parent / name).write_bytes(data)
        seen = [name for name in hostile if name.endswith((".mp4", ".mov"))]
        with pytest.raises(ValueError, match=f"{len(seen)} bad videos") as refused:
            run.prepare(("a", "b"), train=run.videos / "train", test=run.videos / "train")
        entries, _ = entries_of_folder(run.videos, scene_pattern="")
        surveyed = list(survey_all(entries, run.videos, colour_range="auto", processes=1))
        result = run_main(*PREDICT, checkpoint, run.videos, "--save-video", tmp_path / "seen")
        others = [target.parent / name for name in hostile if name not in seen]
        alone = run_main(*PREDICT, checkpoint, *others, "--stride", "2f")
        assert came == []
    assert {each.id for each in surveyed if isinstance(each, BadVideo)} == {f"train/a/{name}" for name in seen}
    assert [Path(json.loads(line)["source"]).name for line in result.out.splitlines()] == ["target.mp4"]
    assert [path.name for path in (tmp_path / "seen/train/a").iterdir()] == ["target.mp4"]
    assert (alone.code, alone.out, len(others)) == (1, "", 33)
    for name in hostile:
        assert name in str(refused.value) or name not in seen
        assert f"/{name}: " in result.err + alone.err


def test_these_files_do_open_others_where_nobody_forbids_it(tmp_path, content):
    """Else the test before would show nothing."""
    target = tmp_path / "target.mp4"
    target.write_bytes(content(0))
    wanted = len(decode(target))

    def frames_of(name, **options):
        with av.open(str(tmp_path / name), options=options) as container:
            return sum(1 for _ in container.decode(video=0))

    with counting_server() as (port, came):
        for name, data in hostile_files(target, port):
            (tmp_path / name).write_bytes(data)
        assert frames_of("path.ffconcat", safe="0", protocol_whitelist="file") == wanted
        assert frames_of("path-alias.mov", enable_drefs="1", use_absolute_path="1") == wanted
        assert came == []
        anything = {"allowed_extensions": "ALL", "allowed_segment_extensions": "ALL", "extension_picky": "0"}
        with pytest.raises(av.FFmpegError):
            frames_of("server.m3u8", protocol_whitelist="file,tcp,http", **anything)
        assert came


def test_an_argument_that_looks_like_a_protocol_is_a_files_name(tmp_path, content, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").write_bytes(content(0))
    with counting_server() as (port, came):
        for given in (
            "file:a.mp4",
            "concat:a.mp4|a.mp4",
            "subfile,,start,0,end,0,,:a.mp4",
            "cache:a.mp4",
            "async:a.mp4",
            "pipe:0",
            f"http:127.0.0.1:{port}/a.mp4",
            f"tcp:127.0.0.1:{port}",
            f"cache:http:127.0.0.1:{port}",
        ):
            for command in (
                [*PREDICT, checkpoint, given],
                ["inspect", given],
                ["brighten", given, "out.mp4", "--enhancer", "gamma"],
            ):
                result = run_main(*command)
                assert (result.code, result.out) == (1, ""), command
                assert f"Error: {given}: no such " in result.err or "wanted" in result.err, result.err
        for given in (f"file://{tmp_path}/a.mp4", "ftp://127.0.0.1/a.mp4", f"concat://{tmp_path}/a.mp4"):
            result = run_main(*PREDICT, checkpoint, given)
            assert (result.code, result.out) == (2, "")
            assert "is no known stream" in result.err
        # A folder may be called so too.
        for folder in (f"http:127.0.0.1:{port}", "file:", "concat:a.mp4|"):
            Path(folder).mkdir()
            (Path(folder) / "a.mp4").write_bytes(content(0))
            result = run_main(*PREDICT, checkpoint, folder)
            assert result.code == 0, result.err
            assert json.loads(result.out)["source"] == f"{folder}/a.mp4"
        assert came == []


@pytest.mark.parametrize("write", [write_video, write_frames])
def test_writing_opens_no_connection_either(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    with counting_server() as (port, came):
        for folder in (f"http:127.0.0.1:{port}", f"tcp:127.0.0.1:{port}", "file:", "md5:", "."):
            for name in ("a.mp4", "file:b.mp4", "http:c.mp4"):
                Path(folder).mkdir(exist_ok=True)
                write(Path(folder) / name, frames, fps=30)
                assert len(decode(Path(folder) / name)) == 2
        assert came == []

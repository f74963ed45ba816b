"""One preprocessing record: evaluate, predict, streams and exported files give the same logits for the same clip."""

import contextlib
import dataclasses
import functools
import json
import os
import threading
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from micro import FIGURES
from random_checkpoint import CLASSES, write_checkpoint
from torch import nn

from pipeline.clips.catch_up import CatchUp
from pipeline.clips.clip_index import Clip, clips_to_text
from pipeline.clips.files import sha256_of
from pipeline.clips.stream import read_frames
from pipeline.clips.video import VIDEO_SUFFIXES, probe
from pipeline.clips.views import evaluation_views
from pipeline.config import plain
from pipeline.enhancers.build import build_enhancer
from pipeline.inference import export, exported_file, live_reader
from pipeline.inference.live_stream import LiveSettings, follow
from pipeline.inference.loading import load_recogniser
from pipeline.inference.predictor import Predictor, Protocol
from pipeline.inference.windows import WindowRule, parse_span, whole_file
from pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from stages import evaluate

CPU = torch.device("cpu")
SAME = 1e-5
"""Of a logit of about 1: the views pass the network in other batches, whose sums round otherwise."""
EXPORTED = 1e-4
"""Of a logit of about 1: what another engine's order of sums may do."""
PROTOCOLS = [{"clips": 1, "crops": "centre"}, {"clips": 2, "crops": "five"}]
VIEW = {"frames": 8, "frame_size": (64, 86), "size": 56, "stride": 2}


def light_by_zero_dce(path):
    """Put a Zero-DCE that does something in the place of a checkpoint's enhancer."""
    tensors, record = load_checkpoint(path)
    enhancer = build_enhancer("zero_dce")
    generator = torch.Generator().manual_seed(3)
    for weight in enhancer.parameters():
        nn.init.normal_(weight, std=0.1, generator=generator)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("enhancer.")}
    tensors |= {f"enhancer.{name}": tensor for name, tensor in enhancer.state_dict().items()}
    preprocessing = dataclasses.replace(record.preprocessing, enhancer={"name": "zero_dce"})
    save_checkpoint(path, tensors, dataclasses.replace(record, preprocessing=preprocessing))
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, small_configs):
    """A student, and teachers that see views, whole frames, and both streams enhanced."""
    folder, configs = tmp_path_factory.mktemp("checkpoints"), small_configs()
    teacher = plain(configs["teacher"]) | {"enhancer": None}
    made = {"student": write_checkpoint(folder / "student.safetensors", settings=plain(configs["student"]), **VIEW)}
    for seed, light in enumerate(("view", "frame", "both"), start=2):
        path = folder / f"{light}.safetensors"
        write_checkpoint(path, kind="teacher", light=light, seed=seed, settings=teacher, **VIEW)
        made[light] = light_by_zero_dce(path)
    made["baseline"] = write_checkpoint(
        folder / "baseline.safetensors", kind="baseline", settings=plain(configs["student"]), **VIEW
    )
    return made


@pytest.fixture(scope="module")
def exported(checkpoints):
    """Exported files by checkpoint and format, written at first use."""

    @functools.lru_cache
    def write(name, form):
        for package in exported_file.PACKAGES[form]:
            pytest.importorskip(package)
        return export.run(checkpoints[name], form=form).path

    return write


def clips_in(videos, names):
    return [
        Clip(
            id=name, label=label % 3, class_name=CLASSES[label % 3], subset="test", scene=name,
            num_frames=(info := probe(videos / name)).num_frames, fps=info.fps, width=info.width, height=info.height,
            rotation=info.rotation, pix_fmt=info.pix_fmt, colour_range=info.colour_range, mean_luma=info.mean_luma,
            dark_share=info.dark_share, luma_crc32=info.luma_crc32, sha256=sha256_of(videos / name),
        )
        for label, name in enumerate(names)
    ]  # fmt: skip


def evaluated(folder, videos, clips, checkpoints, configs, monkeypatch):
    """Logits by model, as the stage hands them to its figures."""
    index, found, measure = folder / "clips.csv", {}, evaluate.measure
    index.write_text(clips_to_text(clips))
    monkeypatch.setattr(evaluate, "measure", lambda values, *more: found.update(values) or measure(values, *more))
    outs = [folder / name for name in FIGURES]
    machine = {"compute": configs["compute"], "device": CPU}
    evaluate.run(index, videos, checkpoints, *outs, config=configs["evaluate"], **machine)
    return found


def predicted(path, videos, clips, protocol):
    loaded = load_recogniser(path, device=CPU)
    predictor = Predictor(loaded, protocol=Protocol(**protocol), batch_size=3, device=CPU)
    answers = [
        answer
        for clip in clips
        for answer in predictor.answers(whole_file(videos / clip.id, predictor.preprocessing), name=clip.id)
    ]
    return np.stack([answer.logits for answer in answers])


def streamed(path, videos, clips, protocol, monkeypatch):
    """The same clips as they come from a live sender that ends after each."""
    loaded, found = load_recogniser(path, device=CPU), []
    predictor = Predictor(loaded, protocol=Protocol(**protocol), batch_size=3, device=CPU)
    for clip in clips:

        @contextlib.contextmanager
        def sender(source, *, timeout_sec, video=videos / clip.id):
            frames = (
                SimpleNamespace(time=number * 1e-6, segment=0, lag=0.0, picture=frame.picture)
                for number, frame in enumerate(read_frames(video))
            )
            yield SimpleNamespace(frames=lambda: frames, finished_file=True, damaged=0, catch_up=CatchUp())

        monkeypatch.setattr(live_reader, "open_live", sender)
        whole = WindowRule(length=parse_span(f"{clip.num_frames}f"), stride=parse_span("1f"))
        settings = LiveSettings(windows=whole, duration_sec=None, timeout_sec=1, retries=0)
        answers = []
        follow(
            "udp://127.0.0.1:9", predictor, settings, stop=threading.Event(), tell=lambda line: None,
            on_answer=lambda answer, when, answers=answers: answers.append(answer.logits),
        )  # fmt: skip
        assert len(answers) == 1
        found += answers
    return np.stack(found)


def run_exported(path, form):
    """The file in its own engine: uint8 (N, T, S, S, 3) -> logits (N, K)."""
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return lambda pixels: session.run(["logits"], {"frames": pixels})[0]
    module = torch.export.load(path).module()
    return lambda pixels: module(torch.from_numpy(pixels)).detach().numpy()


def from_exported(path, form, rule, videos, clips, protocol):
    """Frames as the json beside the file says, by av alone; crops and places in time as the protocol says."""
    about, run = json.loads(path.with_name(path.name + ".json").read_text()), run_exported(path, form)
    height, width = about["frame_size"]
    rows = []
    for clip in clips:
        scaler = av.video.reformatter.VideoReformatter()
        with av.open(str(videos / clip.id)) as file:
            frames = [
                scaler.reformat(frame, width=width, height=height, **about["reformat"]).to_ndarray()
                for frame in file.decode(video=0)
            ]
        seen = []
        for view in evaluation_views(rule, clip_id=clip.id, num_frames=len(frames), **protocol):
            top, left, tall, wide = view.crop
            seen.append(np.stack([frames[index][top : top + tall, left : left + wide] for index in view.frame_indices]))
        rows.append(run(np.stack(seen)).mean(axis=0))
    return np.stack(rows)


def check_all_paths(folder, videos, names, checkpoints, exported, small_configs, monkeypatch, protocol, lights):
    clips = clips_in(videos, names)
    rule = load_recogniser(checkpoints["student"], device=CPU).preprocessing.view_rule
    configs = small_configs(evaluate={**protocol, "batch_size": 2, "stress_ev": []})
    for light in lights:
        chosen = {"baseline": checkpoints["baseline"], "student": checkpoints["student"], "teacher": checkpoints[light]}
        wanted = evaluated(folder, videos, clips, chosen, configs, monkeypatch)
        assert np.ptp(wanted["teacher"], axis=0).max() > 100 * EXPORTED  # clips are told apart
        for kind, path in chosen.items():
            found = predicted(path, videos, clips, protocol | {"average": "logits"})
            np.testing.assert_allclose(found, wanted[kind], rtol=0, atol=SAME, err_msg=f"predict, {kind}, {light}")
            found = streamed(path, videos, clips, protocol | {"average": "logits"}, monkeypatch)
            np.testing.assert_allclose(found, wanted[kind], rtol=0, atol=SAME, err_msg=f"stream, {kind}, {light}")
        # Frames that are enhanced whole are refused by export; it tests two streams itself.
        files = {"student": "student"} | ({"teacher": light} if light == "view" else {})
        for kind, name in files.items():
            for form in ("onnx", "torch"):
                found = from_exported(exported(name, form), form, rule, videos, clips, protocol)
                np.testing.assert_allclose(found, wanted[kind], rtol=0, atol=EXPORTED, err_msg=f"{form}, {name}")


@pytest.mark.parametrize("light", ["view", "frame", "both"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["centre", "five"])
def test_rendered_clips_get_the_same_logits_on_every_path(
    tmp_path, make_video, small_configs, monkeypatch, checkpoints, exported, protocol, light
):
    # Longer than a view, shorter (starts over), upright.
    for seed, (name, shape) in enumerate({"a.mp4": (31, 72, 96), "b.mp4": (5, 72, 96), "c.mkv": (20, 96, 64)}.items()):
        frames, height, width = shape
        path = tmp_path / "videos" / name
        make_video(path, num_frames=frames, height=height, width=width, seed=seed, level=60)
    names = ["a.mp4", "b.mp4", "c.mkv"]
    shared = (checkpoints, exported, small_configs, monkeypatch, protocol)
    check_all_paths(tmp_path, tmp_path / "videos", names, *shared, lights=[light])


LONG = pytest.mark.skipif("DLKDD_LONG" not in os.environ, reason="takes half a minute; set DLKDD_LONG=1 to run it")


@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        pytest.param("egogest10", PROTOCOLS[0], id="egogest10-centre"),
        pytest.param("arid6", PROTOCOLS[1], id="arid6-five"),
        pytest.param("egogest10", PROTOCOLS[1], id="egogest10-five", marks=LONG),
        pytest.param("arid6", PROTOCOLS[0], id="arid6-centre", marks=LONG),
    ],
)
def test_real_clips_get_the_same_logits_on_every_path(
    tmp_path, request, small_configs, monkeypatch, checkpoints, exported, data, protocol
):
    root = request.getfixturevalue(data)
    videos = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in VIDEO_SUFFIXES)
    names = [videos[0], videos[len(videos) // 2], videos[-1]]
    shared = (checkpoints, exported, small_configs, monkeypatch, protocol)
    check_all_paths(tmp_path, root, names, *shared, lights=["view", "frame"])


def test_another_record_changes_every_path_alike(tmp_path, make_video, small_configs, monkeypatch, checkpoints):
    """The same weights with another record: nothing about the pixels comes from anywhere else."""
    make_video(tmp_path / "a.mp4", num_frames=30, height=72, width=96, level=60, lossless=False)
    clips, protocol = clips_in(tmp_path, ["a.mp4"]), PROTOCOLS[1]
    tensors, record = load_checkpoint(checkpoints["student"])
    pixels = record.preprocessing
    rule = dataclasses.replace(pixels.view_rule, sampling="spread", frame_size=(60, 80))
    changed = dataclasses.replace(pixels, mean=(0.3, 0.2, 0.1), colour_range="full", view_rule=rule)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, tensors, dataclasses.replace(record, preprocessing=changed))
    configs = small_configs(evaluate={**protocol, "stress_ev": []})
    chosen = {"baseline": checkpoints["baseline"], "teacher": checkpoints["view"]}
    first, second = (
        evaluated(tmp_path, tmp_path, clips, chosen | {"student": path}, configs, monkeypatch)["student"]
        for path in (checkpoints["student"], other)
    )
    assert np.abs(first - second).max() > 100 * EXPORTED
    found = predicted(other, tmp_path, clips, protocol | {"average": "logits"})
    np.testing.assert_allclose(found, second, rtol=0, atol=SAME)
    path = export.run(other, form="torch").path
    np.testing.assert_allclose(
        from_exported(path, "torch", rule, tmp_path, clips, protocol), second, rtol=0, atol=EXPORTED
    )

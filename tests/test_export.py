"""Exported files against the checkpoint, in engines that know nothing of this project."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from pipeline.cli import cli
from pipeline.clips.video import decode, probe, write_video
from pipeline.clips.views import ViewRule, apply_view, centre_view
from pipeline.enhancers.build import build_enhancer
from pipeline.enhancers.zero_dce import OFFICIAL_SHA256
from pipeline.inference import export, export_form, exported_file, parity, sidecar
from pipeline.inference.loading import load_recogniser
from pipeline.models.classifier import build_classifier
from pipeline.models.recogniser import Recogniser
from pipeline.training.checkpoint import Preprocessing, Record, save_checkpoint

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
NAMES = ("Run", "Walk", "Drink & <eat>", "Wave")
CLOSE = 1e-4
"""Of the largest logit: what the exported form promises."""


def rule(**changes):
    values = {"frames": 4, "sampling": "consecutive", "stride": 2, "jitter": 0.0, "loop": True}
    values |= {"frame_size": (40, 52), "size": 32, "scales": (1.0,), "positions": "random", "flip": True, "seed": 0}
    return ViewRule(**values | changes)


def save(
    path,
    *,
    view=None,
    model="r2plus1d_tiny",
    enhancer=None,
    on="none",
    seen="dark",
    kind="student",
    still=False,
    **settings,
):
    """A checkpoint of random weights, with running statistics that are not the first ones."""
    view = view or rule()
    arguments = {"name": model, "num_classes": len(NAMES), "num_frames": view.frames, "head_dropout": 0.5}
    arguments["streams"] = 2 if seen == "both" else 1
    parts = {"classifier": build_classifier(seed=0, **arguments)}
    if enhancer is not None:
        parts["enhancer"] = build_enhancer(enhancer)
    generator = torch.Generator().manual_seed(1)
    for module in nn.ModuleDict(parts).modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        elif isinstance(module, nn.Conv2d):  # Zero-DCE's
            nn.init.normal_(module.weight, std=0.1, generator=generator)
    both = seen == "both"
    preprocessing = Preprocessing(
        view_rule=view,
        colour_range="auto",
        mean=(0.4, 0.3, 0.2),
        std=(0.3, 0.2, 0.25),
        enhancer_on=on,
        input=seen,
        enhancer=None if enhancer is None else {"name": enhancer},
        dark_mean=(0.02, 0.03, 0.04) if both else None,
        dark_std=(0.1, 0.1, 0.2) if both else None,
        remove_temporal_mean=still,
    )
    record = Record(
        kind=kind,
        class_names=NAMES,
        model=arguments,
        preprocessing=preprocessing,
        settings={"weights": None, **settings},
        metrics={},
    )
    save_checkpoint(path, nn.ModuleDict(parts).state_dict(), record)
    return path


def render(path, num_frames, *, seed=0):
    """A lossless video of coarse noise, of a size that has to be resized."""
    coarse = np.random.default_rng(seed).integers(0, 120, (num_frames, 12, 16, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, coarse.repeat(8, axis=1).repeat(8, axis=2), fps=12, lossless=True)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints, videos, and the student exported in both formats, by the command, with parity on the videos."""
    for package in exported_file.PACKAGES["onnx"]:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("export")
    student = save(folder / "student.safetensors")
    teacher = save(
        folder / "teacher.safetensors",
        view=rule(frames=18),
        enhancer="zero_dce",
        on="view",
        seen="both",
        kind="teacher",
        still=True,
    )
    for number, length in enumerate((20, 3, 9)):
        render(folder / "videos" / f"{number}.mp4", length, seed=number)
    for checkpoint, form, more in (
        (student, "onnx", ["--videos", folder / "videos"]),
        (student, "torch", ["--videos", folder / "videos" / "0.mp4", "--videos", folder / "videos" / "1.mp4"]),
        (teacher, "torch", []),
    ):
        result = CliRunner().invoke(cli, ["export", str(checkpoint), "--format", form, *map(str, more)])
        assert result.exit_code == 0, result.exception
        assert "largest difference from the checkpoint" in result.output
        assert ("noise alone" in result.output) == (not more)
    return folder


def about(path):
    return json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))


def without(*modules):
    """Code after which those modules cannot be imported."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"


def run_alone(code, *arguments, cwd):
    """Code in a Python that cannot import this project."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


ENGINES = {
    ".onnx": without("pipeline", "stages", "torch")
    + "import numpy, onnxruntime\n"
    + "run = lambda x: onnxruntime.InferenceSession(sys.argv[1]).run(None, {'frames': x})[0]\n",
    ".pt2": without("pipeline", "stages")
    + "import numpy, torch\n"
    + "module = torch.export.load(sys.argv[1]).module()\n"
    + "run = lambda x: module(torch.from_numpy(x)).detach().numpy()\n",
}
ALL = "numpy.save(sys.argv[3], numpy.concatenate([run(x[:1]), run(x), run(x.repeat(2, 0))]))"


@pytest.mark.parametrize(("name", "frames"), [("student.onnx", 4), ("teacher.pt2", 18)])
def test_the_file_gives_the_checkpoints_logits_without_this_project_for_any_batch(folder, tmp_path, name, frames):
    pixels = np.random.default_rng(0).integers(0, 256, (3, frames, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    engine = ENGINES[Path(name).suffix]
    code = engine + "x = numpy.load(sys.argv[2])\n" + ALL
    done = run_alone(code, folder / name, tmp_path / "pixels.npy", tmp_path / "logits.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # The layers as they were trained, not the form that export starts from.
    checkpoint = (folder / name).with_suffix(".safetensors")
    recogniser = load_recogniser(checkpoint, device=CPU, training_form=True).recogniser
    with torch.no_grad():
        wanted = recogniser(torch.from_numpy(pixels)).numpy()
    found = np.load(tmp_path / "logits.npy")
    assert found.dtype == np.float32
    assert len(found) == 1 + 3 + 6
    wanted = np.concatenate([wanted[:1], wanted, wanted.repeat(2, 0)])
    assert np.abs(found - wanted).max() <= CLOSE * np.abs(wanted).max()
    assert np.ptp(wanted, axis=1).min() > 0.01  # the logits say something
    assert np.abs(wanted[1] - wanted[2]).max() > 1e-3  # and depend on the pixels


def documents_program():
    """The one program of the documents that uses ONNX Runtime."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    programs = [program for text in texts for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    (program,) = [program for program in programs if "import onnxruntime" in program]
    return program


def test_the_documents_program_has_20_lines_and_needs_onnxruntime_and_av_alone():
    lines = [line for line in documents_program().splitlines() if line.strip()]
    assert len(lines) <= 20
    imported = {re.split(r"[ .]", line)[1] for line in lines if re.match(r"import |from ", line)}
    assert imported - set(sys.stdlib_module_names) == {"av", "onnxruntime", "numpy"}  # both others need NumPy


def answers_of_the_program(model, video, *, cwd):
    """The logits by class that the program of the document prints."""
    done = run_alone(without("pipeline", "stages", "torch") + documents_program(), model, video, cwd=cwd)
    assert done.returncode == 0, done.stderr
    found = [re.fullmatch(r"([0-9.]+) ([+-][0-9.]+) (.*)", line).groups() for line in done.stdout.splitlines()]
    probabilities = [float(probability) for probability, _, _ in found]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=len(NAMES) * 0.0005)  # printed with three decimals
    return {name: float(logit) for _, logit, name in found}


def check_program(model, video, checkpoint, *, cwd, view):
    """Compare with the project's own answer for the same clip."""
    seen = centre_view(view, clip_id="", num_frames=probe(video).num_frames)
    pixels = apply_view(decode(video, indices=seen.frame_indices, size=view.frame_size), seen, view.size)
    recogniser = load_recogniser(checkpoint, device=CPU).recogniser
    with torch.no_grad():
        wanted = recogniser(torch.from_numpy(pixels[None]))[0].numpy()
    found = answers_of_the_program(model, video, cwd=cwd)
    assert set(found) == set(NAMES)
    difference = max(abs(found[name] - logit) for name, logit in zip(NAMES, wanted, strict=True))
    assert difference <= CLOSE * np.abs(wanted).max()


@pytest.mark.parametrize("number", [0, 1, 2])  # 20 frames, 3 which start over, 9
def test_the_documents_program_gives_the_projects_answer(folder, tmp_path, number):
    video = folder / "videos" / f"{number}.mp4"
    check_program(folder / "student.onnx", video, folder / "student.safetensors", cwd=tmp_path, view=rule())


@pytest.mark.parametrize("number", [0, 1])
def test_the_documents_program_spreads_frames_over_the_video_where_the_model_does(folder, tmp_path, number):
    """The view is no part of the graph, so a checkpoint that differs in it shares the file."""
    view = rule(sampling="spread")
    checkpoint = save(tmp_path / "student.safetensors", view=view)
    shutil.copy(folder / "student.onnx", tmp_path)
    content = about(folder / "student.onnx") | sidecar._test_view(view)
    (tmp_path / "student.onnx.json").write_text(json.dumps(content))
    video = folder / "videos" / f"{number}.mp4"
    check_program(tmp_path / "student.onnx", video, checkpoint, cwd=tmp_path, view=view)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
def test_the_documents_program_turns_a_rotated_video(folder, tmp_path):
    turned = tmp_path / "turned.mp4"
    arguments = ["-i", folder / "videos" / "0.mp4", "-c", "copy", "-metadata:s:v", "rotate=90", turned]
    subprocess.run(["ffmpeg", "-loglevel", "error", *map(str, arguments)], check=True, capture_output=True)
    assert probe(turned).rotation in (90, 270)
    check_program(folder / "student.onnx", turned, folder / "student.safetensors", cwd=tmp_path, view=rule())


def test_the_documents_program_gives_the_projects_answer_for_real_dark_clips(folder, tmp_path, arid6):
    videos = sorted(arid6.rglob("*.mp4"))
    for video in videos[:: len(videos) // 3][:3]:
        check_program(folder / "student.onnx", video, folder / "student.safetensors", cwd=tmp_path, view=rule())


def test_the_sidecar_says_how_to_feed_the_file_and_where_it_comes_from(folder):
    path, checkpoint = folder / "student.onnx", folder / "student.safetensors"
    found = about(path)
    assert found["classes"] == list(NAMES)
    assert found["input"] == {"name": "frames", "type": "uint8", "shape": ["batch", 4, 32, 32, 3], "colours": "RGB"}
    assert found["output"]["shape"] == ["batch", 4]
    assert (found["frames"], found["sampling"], found["stride"], found["loop"]) == (4, "consecutive", 2, True)
    assert (found["frame_size"], found["crop"], found["size"]) == ([40, 52], [4, 10, 32, 32], 32)
    assert found["fps"] == 12
    assert found["colour_range"] == "auto"
    assert found["reformat"]["src_color_range"] is None
    assert found["interpolation_names"].split("|")[0] == "BILINEAR"
    graph = found["in_the_graph"]
    assert (graph["mean"], graph["std"], graph["enhancer"]) == ([0.4, 0.3, 0.2], [0.3, 0.2, 0.25], None)
    assert (found["model"]["name"], found["kind"], found["precision"]) == ("r2plus1d_tiny", "student", "float32")
    for digest, file in ((found["file"]["sha256"], path), (found["checkpoint"]["sha256"], checkpoint)):
        assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found["file"]["bytes"] == path.stat().st_size
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"onnx", "onnxruntime", "av", "python", "dl-kdd"} <= set(found["versions"])
    assert found["model_card"] is None
    measured = found["parity"]
    assert (measured["on"], measured["clips"], measured["views"]) == ("real clips", ["0.mp4", "1.mp4", "2.mp4"], 3)
    assert 0 <= measured["relative"] < CLOSE
    assert measured["relative"] == pytest.approx(measured["largest_difference"] / measured["largest_logit"])
    teacher = about(folder / "teacher.pt2")
    assert teacher["parity"]["on"] == "noise, seed 0"
    assert teacher["fps"] is None
    assert teacher["in_the_graph"]["enhancer"] == {"name": "zero_dce"}
    assert teacher["in_the_graph"]["dark_mean"] == [0.02, 0.03, 0.04]
    assert teacher["in_the_graph"]["remove_temporal_mean"] is True
    assert graph["remove_temporal_mean"] is False
    assert about(folder / "student.pt2")["parity"]["clips"] == ["0.mp4", "1.mp4"]


def conv_axes(path):
    """How many axes the weights of each convolution in an ONNX file have, as ONNX itself reads it."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return [len(weights[node.input[1]]) for node in model.graph.node if node.op_type == "Conv"]


def test_an_r2plus1d_file_has_no_convolution_over_five_axes(folder):
    assert set(conv_axes(folder / "student.onnx")) == {4}
    assert about(folder / "student.onnx")["file"]["convolutions"] == "2D"


def test_the_files_say_nothing_of_this_machine(folder):
    for name in ("student.onnx", "student.pt2", "teacher.pt2", "student.onnx.json", "student.pt2.json"):
        content = (folder / name).read_bytes()
        for place in (ROOT, folder, Path.home()):
            assert str(place).encode() not in content, (name, place)
    assert sorted(path.name for path in folder.iterdir()) == [  # and nothing beside them is left
        *("student.onnx", "student.onnx.json", "student.pt2", "student.pt2.json", "student.safetensors"),
        *("teacher.pt2", "teacher.pt2.json", "teacher.safetensors", "videos"),
    ]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias"),
    [
        ((3, 3, 3), (1, 1, 1), (1, 1, 1), False),
        ((3, 3, 3), (2, 2, 2), (1, 1, 1), True),
        ((2, 4, 4), (2, 4, 4), 0, True),
    ],
)
@pytest.mark.parametrize("frames", [4, 5])
def test_a_3d_convolution_done_by_a_2d_one_is_the_same(kernel, stride, padding, bias, frames):
    torch.manual_seed(0)
    conv = nn.Conv3d(3, 5, kernel, stride=stride, padding=padding, bias=bias).double()
    x = torch.randn(2, 3, frames, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(export_form.Conv3dAs2d(conv)(x), conv(x), rtol=0, atol=1e-12)  # float64


@pytest.mark.parametrize("options", [{"groups": 3}, {"dilation": 2}, {"padding": "same"}, {"padding_mode": "circular"}])
def test_other_3d_convolutions_are_refused(options):
    with pytest.raises(ValueError, match=r"conv2d: found Conv3d.*wanted zero padding"):
        export_form.Conv3dAs2d(nn.Conv3d(3, 3, 3, **options))


class PlainNetwork(nn.Module):
    """As torchvision's trunks: 3D convolutions as they come."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1, stride=(1, 2, 2)), nn.ReLU(), nn.Conv3d(4, 6, 1))

    def forward(self, pixels):
        return self.layers(pixels.permute(0, 4, 1, 2, 3).float() / 255).mean((2, 3, 4))


def test_conv2d_leaves_no_convolution_over_five_axes_in_either_format(tmp_path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = PlainNetwork().eval()
    assert export_form.has_conv3d(export_form.as_graph(network, frames=3, size=8))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8, 3), dtype=np.uint8)
    wanted = network(torch.from_numpy(pixels)).detach().numpy()
    export_form._replace_conv3d(network)
    graph = export_form.as_graph(network, frames=3, size=8)
    assert not export_form.has_conv3d(graph)
    for form in ("onnx", "torch"):
        exported_file.write_graph(graph, tmp_path / form, form)
        np.testing.assert_allclose(
            exported_file.open_graph(tmp_path / form, form)(pixels), wanted, atol=1e-6
        )  # float32
    assert conv_axes(tmp_path / "onnx") == [4, 4]
    # The same graph gives the same bytes.
    exported_file.write_graph(graph, tmp_path / "again", "onnx")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "onnx").read_bytes()


def test_zero_dce_stands_in_the_onnx_file_in_parts_of_time(tmp_path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    enhancer = build_enhancer("zero_dce")
    for weight in enhancer.parameters():
        nn.init.normal_(weight, std=0.1)

    class Mean(nn.Module):
        def forward(self, views):
            return views.mean((3, 4)).flatten(1)

    arguments = {"mean": (0.4, 0.3, 0.2), "std": (0.3, 0.2, 0.25), "enhancer": enhancer, "enhanced_at_once": 2}
    graph = export_form.as_graph(export_form.ByTime(Mean(), **arguments).eval(), frames=5, size=8)
    exported_file.write_graph(graph, tmp_path / "onnx", "onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 8, 8, 3), dtype=np.uint8)
    # Recogniser cuts all 15 frames into parts of 2 together.
    wanted = Recogniser(Mean(), **arguments)(torch.from_numpy(pixels)).numpy()
    found = exported_file.open_graph(tmp_path / "onnx", "onnx")(pixels)
    np.testing.assert_allclose(found, wanted, atol=CLOSE * np.abs(wanted).max(), rtol=0)
    dark = Recogniser(Mean(), **arguments | {"enhancer": None})(torch.from_numpy(pixels)).numpy()
    assert np.abs(dark - wanted).max() > 0.1  # it does something


def test_conv2d_rewrites_a_trunk_of_torchvision(tmp_path):
    checkpoint = save(tmp_path / "student.safetensors", model="mc3_18", view=rule(frames=2, size=16))
    loaded = load_recogniser(checkpoint, device=CPU)
    pixels = torch.randint(0, 256, (2, 2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    form = export_form.export_form(loaded, where=checkpoint, conv2d=True)
    with torch.no_grad():
        wanted, found = loaded.recogniser(pixels), form(pixels)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()  # sums in another order
    assert not any(
        type(module).forward is nn.Conv3d.forward for module in form.modules() if isinstance(module, nn.Conv3d)
    )
    assert any(isinstance(module, nn.Conv3d) for module in loaded.recogniser.modules())  # left as it was


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enhancer": "zero_dce", "on": "frame", "seen": "enhanced"}, "enhancer.on: found 'frame'.*wanted 'view'"),
        ({"enhancer": "lime", "on": "view", "seen": "enhanced"}, "enhancer: found Lime, which works in NumPy"),
    ],
)
def test_enhancers_that_no_graph_can_hold_are_refused(tmp_path, options, message):
    checkpoint = save(tmp_path / "teacher.safetensors", kind="teacher", **options)
    with pytest.raises(ValueError, match=rf"teacher\.safetensors: {message}"):
        export.run(checkpoint, form="torch")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.safetensors"]


def test_a_model_in_training_mode_is_refused(tmp_path):
    loaded = load_recogniser(save(tmp_path / "student.safetensors"), device=CPU)
    loaded.recogniser.classifier.head.train()
    with pytest.raises(ValueError, match=r"student: classifier\.head is in training mode, which would be exported"):
        export_form.export_form(loaded, where="student")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"form": "tflite"}, "format: unknown name 'tflite'; known names are onnx, torch"),
        ({"form": "onnx", "out": Path("model.pt2")}, r"model\.pt2: found '\.pt2', wanted a name that ends in \.onnx"),
        ({"form": "onnx", "videos": [Path("nowhere.mp4")]}, r"nowhere\.mp4: no such file"),
        ({"form": "onnx", "videos": [Path("empty")]}, "empty: holds no video"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    checkpoint = save(Path("student.safetensors"))
    monkeypatch.setattr(export, "as_graph", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(ValueError, match=message):
        export.run(checkpoint, **given)


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    there = exported_file.importlib.util.find_spec
    monkeypatch.setattr(
        exported_file.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else there(name)
    )
    with pytest.raises(
        ValueError, match=r"format onnx: needs onnxscript, not installed; run `pip install .*\[export\]"
    ):
        exported_file.check_format("onnx")
    exported_file.check_format("torch")


def test_weights_beyond_one_file_are_refused_for_onnx_alone(monkeypatch):
    network = PlainNetwork()
    monkeypatch.setattr(exported_file, "LARGEST_ONNX_BYTES", 100)
    with pytest.raises(
        ValueError, match=r"format onnx: found \d+ bytes of weights, wanted at most 100.*--format torch"
    ):
        exported_file.check_size(network, "onnx")
    exported_file.check_size(network, "torch")


@pytest.fixture
def quick_export(tmp_path, monkeypatch):
    """An export whose graph is a fixed text, beside an earlier one of the same name."""
    checkpoint = save(tmp_path / "student.safetensors")
    (tmp_path / "student.pt2").write_text("earlier")
    (tmp_path / "student.pt2.json").write_text("of the earlier")
    monkeypatch.setattr(export, "as_graph", lambda *_, **__: None)
    monkeypatch.setattr(export, "has_conv3d", lambda _: False)
    monkeypatch.setattr(export, "write_graph", lambda graph, path, form: path.write_text("new"))
    recogniser = load_recogniser(checkpoint, device=CPU).recogniser

    def opened(factor):
        @torch.no_grad()
        def run(pixels):
            return recogniser(torch.from_numpy(pixels)).numpy() * factor

        monkeypatch.setattr(export, "open_graph", lambda path, form: run)
        return checkpoint

    return opened


def left(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors"}


@pytest.mark.parametrize("factor", [1 + 2e-4, float("nan")])
def test_a_file_that_answers_otherwise_is_refused_and_leaves_everything_as_it_was(tmp_path, quick_export, factor):
    before = left(tmp_path)
    with pytest.raises(ValueError, match=r"the exported logits differ from the checkpoint's by .* not written"):
        export.run(quick_export(factor), form="torch")
    assert left(tmp_path) == before


def test_rounding_is_not_refused_and_both_files_are_replaced(tmp_path, quick_export):
    written = export.run(quick_export(1 + 5e-5), form="torch")
    assert set(left(tmp_path)) == {"student.pt2", "student.pt2.json"}
    assert written.path.read_text() == "new"
    assert about(written.path)["parity"]["relative"] == pytest.approx(5e-5, rel=0.01)  # of float32 logits
    assert about(written.path)["file"]["sha256"] == hashlib.sha256(b"new").hexdigest()


def test_a_stop_between_the_two_files_leaves_no_json_beside_another_file(tmp_path, quick_export, monkeypatch):
    checkpoint = quick_export(1.0)
    there = os.replace

    def stop(source, target):
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        there(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        export.run(checkpoint, form="torch")
    assert left(tmp_path) == {"student.pt2": "new"}


def test_an_error_before_the_end_leaves_the_earlier_files(tmp_path, quick_export, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space")

    checkpoint, before = quick_export(1.0), left(tmp_path)
    monkeypatch.setattr(export, "describe", fail)
    with pytest.raises(OSError, match="no space"):
        export.run(checkpoint, form="torch")
    assert left(tmp_path) == before


def test_the_model_card_is_joined_where_it_names_the_checkpoint(tmp_path, capsys):
    checkpoint = save(tmp_path / "student.safetensors")
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert sidecar.model_card(checkpoint, digest, "student") is None
    card = tmp_path / "MODEL_CARD.md"
    card.write_text("# Model card\n\nof other weights\n")
    assert sidecar.model_card(checkpoint, digest, "student") is None
    assert "MODEL_CARD.md: does not name student.safetensors's sha256" in capsys.readouterr().out
    card.write_text(f"# Model card\n\nsha256 {digest}\n")
    found = sidecar.model_card(checkpoint, digest, "student")
    assert found == {"name": card.name, "sha256": hashlib.sha256(card.read_bytes()).hexdigest(), "figures": None}
    (tmp_path / "metrics.json").write_text(json.dumps({"n": 88, "student": {"top1": 0.7}, "teacher": {"top1": 0.6}}))
    assert sidecar.model_card(checkpoint, digest, "student")["figures"] == {"n": 88, "top1": 0.7}


def test_the_licence_names_what_the_weights_hold():
    record = Record(
        kind="teacher", class_names=(), model={}, preprocessing=None, settings={"weights": None}, metrics={}
    )
    assert "pretrained" not in sidecar.licence(record)
    started = dataclasses.replace(record, settings={"weights": "ab12"})
    assert "pretrained file" in sidecar.licence(started)
    lit = dataclasses.replace(record, settings={"weights": None, "enhancer": {"weights": OFFICIAL_SHA256}})
    assert "CC BY-NC 4.0: no commercial use" in sidecar.licence(lit)
    student = dataclasses.replace(record, kind="student")
    assert "its teacher's enhancer" in sidecar.licence(student)


def test_parity_takes_evenly_spaced_clips_of_a_folder_and_names_a_bad_one(tmp_path):
    preprocessing = load_recogniser(save(tmp_path / "student.safetensors"), device=CPU).preprocessing
    for number in range(12):
        render(tmp_path / "videos" / "Run" / f"{number:02}.mp4", 3, seed=number)
    views = parity.open_views(preprocessing, [tmp_path / "videos"])
    assert len(views.pixels) == parity.CLIPS
    assert views.names[0] == "Run/00.mp4"
    assert views.names[-1] == "Run/11.mp4"
    (tmp_path / "videos" / "Run" / "00.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"00\.mp4: cannot be decoded as a video"):
        parity.open_views(preprocessing, [tmp_path / "videos"])


def test_noise_is_the_same_every_time_and_half_of_it_dark(tmp_path):
    preprocessing = load_recogniser(save(tmp_path / "student.safetensors"), device=CPU).preprocessing
    first, second = (parity.open_views(preprocessing, []).pixels for _ in range(2))
    assert np.array_equal(first, second)
    assert first.dtype == np.uint8
    assert first[:2].max() > 250
    assert first[2:].max() < 32


def test_onnx_is_no_import_of_the_command_line():
    """Help texts and stages must not wait for it, or need it."""
    code = (
        "import sys, pipeline.cli, pipeline.inference.export; print([m for m in sys.modules if m.startswith('onnx')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

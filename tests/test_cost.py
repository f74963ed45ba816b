"""Counts against figures worked out by hand and published ones, memory against known tensors, documents."""

import functools
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.enhancers.build import build_enhancer
from pipeline.inference.cost import AT_ONCE, ENHANCED, STUDENT, TWO_STREAM, count, measure
from pipeline.inference.cost_table import run, table
from pipeline.models.classifier import build_classifier
from pipeline.models.recogniser import Recogniser

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = {
    "model": "r2plus1d_tiny",
    "head": "attention",
    "frames": 16,
    "size": 56,
    "num_classes": 11,
    "enhancer": "zero_dce",
    "repeats": 1,
    "device": CPU,
}
ZERO_DCE_MACS_A_PIXEL = 79_200  # weights of its seven 3x3 convolutions: 9 (3 + 3 x 32 + 2 x 64) 32 + 9 x 64 x 24


def recogniser_34(*, frames, enhancer=None, head="attention", streams=1):
    with torch.device("meta"):
        classifier = build_classifier(
            "r2plus1d_34", num_classes=11, num_frames=frames, head=head, head_dropout=0.0, streams=streams, seed=0
        )
        return Recogniser(
            classifier,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            enhancer=enhancer and build_enhancer(enhancer),
            dark_stream=((0.0,) * 3, (1.0,) * 3) if streams == 2 else None,
        )


@functools.cache
def counts_34(*, frames=64, **options):
    return count(recogniser_34(frames=frames, **options), (1, frames, 112, 112, 3))


class TinyNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, kernel_size=(1, 3, 3), padding=(0, 1, 1))
        self.norm = nn.BatchNorm3d(4)
        self.linear = nn.Linear(4, 5)

    def forward(self, pixels):
        features = self.norm(self.conv(pixels.float().permute(0, 4, 1, 2, 3)))
        return self.linear(features.mean((2, 3, 4)))


def test_counts_of_a_small_network_are_those_made_by_hand():
    network = TinyNetwork()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    counts = count(network, (2, 5, 6, 6, 3))
    elements = 2 * 4 * 5 * 6 * 6  # (B, C', T, H, W)
    conv = elements * 3 * 9  # each from 3 channels of 3x3 pixels
    assert counts.conv_macs == conv
    assert counts.macs == conv + 2 * 4 * 5
    assert counts.flops == 2 * counts.macs
    assert (counts.batch_norm_layers, counts.batch_norm_elements) == (1, elements)
    assert counts.fvcore_style == counts.macs + 2 * elements
    assert counts.parameters == (4 * 3 * 9 + 4) + 2 * 4 + (4 * 5 + 5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("frames", "gflop", "gmac", "conv_gmac"),
    [
        (8, 76.190, 38.095, 38.089),
        (16, 152.374, 76.187, 76.178),
        (32, 304.743, 152.371, 152.356),
        (64, 609.479, 304.739, 304.711),
    ],
)
def test_the_students_operations_are_the_known_ones(frames, gflop, gmac, conv_gmac):
    counts = counts_34(frames=frames)
    digit = 0.00051  # the known figures have three decimals
    assert counts.flops / 1e9 == pytest.approx(gflop, abs=digit)
    assert counts.macs / 1e9 == pytest.approx(gmac, abs=digit)
    assert counts.conv_macs / 1e9 == pytest.approx(conv_gmac, abs=digit)


def test_operations_seen_by_torch_and_by_the_modules_agree():
    """Convolutions done as 2D convolutions and as a linear layer must be counted as what they stand for."""
    average = counts_34(head="average")
    assert average.macs == average.conv_macs + 512 * 11
    attention = counts_34()
    channels, tokens = 512, 9
    linear = tokens * (4 + 8) * channels**2 + channels * 11
    products = 2 * tokens**2 * channels  # scores and mixing
    assert attention.macs == attention.conv_macs + linear + products
    assert attention.conv_macs == average.conv_macs


def test_parameters_and_batch_normalisations_are_the_known_ones():
    counts = counts_34()
    assert counts.parameters == 66_655_122
    assert (counts.batch_norm_layers, counts.batch_norm_elements) == (69, 400_950_928)
    assert counts_34(enhancer="zero_dce").parameters == 66_655_122 + 79_416
    assert counts_34(enhancer="gamma", streams=2).parameters == 66_659_218


@pytest.mark.parametrize(("frames", "gmac"), [(1, 0.993485), (64, 63.583)])
def test_zero_dce_costs_79200_multiply_accumulates_a_pixel(frames, gmac):
    added = counts_34(frames=frames, enhancer="zero_dce").macs - counts_34(frames=frames).macs
    assert added == ZERO_DCE_MACS_A_PIXEL * frames * 112 * 112
    assert added / 1e9 == pytest.approx(gmac, abs=0.00051 if frames == 64 else 0.00000051)


def test_the_methods_stand_to_each_other_as_known():
    student, enhanced = counts_34(), counts_34(enhancer="zero_dce")
    two_streams = counts_34(enhancer="gamma", streams=2)
    assert enhanced.macs / 1e9 == pytest.approx(368.32, abs=0.005)
    assert two_streams.macs / 1e9 == pytest.approx(609.476, abs=0.0005)
    assert two_streams.conv_macs == 2 * student.conv_macs


def test_the_papers_305_51_is_fvcores_count_of_the_average_head_and_its_310_28_is_not():
    average = counts_34(head="average")
    enhanced = counts_34(head="average", enhancer="zero_dce")
    # What fvcore 0.1.5 counts of these three.
    assert average.fvcore_style == 305_512_928_032
    assert counts_34().fvcore_style == 305_541_322_528
    assert enhanced.fvcore_style == 369_095_955_232
    paper = 310.28 - 305.51
    assert average.fvcore_style / 1e9 / 64 == pytest.approx(paper, abs=0.01)  # two figures of two decimals each
    assert paper / 0.993485 == pytest.approx(4.80, abs=0.01)


def test_what_works_in_numpy_is_not_counted():
    with pytest.raises(ValueError, match=r"found Histogram, which works in NumPy, wanted .*; count the recogniser"):
        counts_34(frames=8, enhancer="histogram")


class TwoTensors(nn.Module):
    """Holds two tensors of 4 MB at once, and gives back three in all."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1000))
        self.passes = []

    def forward(self, pixels):
        self.passes.append((self.training, torch.is_inference_mode_enabled()))
        first = torch.empty(1_000_000, device=pixels.device)
        second = torch.empty(1_000_000, device=pixels.device)
        del first
        third = torch.empty(500_000, device=pixels.device)
        return third[:1], second[:1]


def test_peak_memory_is_that_of_the_tensors_held_at_once():
    module = TwoTensors()
    pixels = torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8)
    measured = measure(module, pixels, device=CPU, repeats=3)
    assert measured.peak_bytes == 2 * 4_000_000
    assert measured.weights_bytes == 4000
    assert measured.input_bytes == 2 * 4 * 4 * 3
    assert module.passes == [(False, True)] * 5  # warm-up, memory, three repeats
    assert 0 < measured.fastest_sec <= measured.latency_sec <= measured.slowest_sec


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_peak_memory_on_a_gpu_is_that_of_the_tensors_held_at_once():
    pixels = torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8)
    measured = measure(TwoTensors(), pixels, device=torch.device("cuda"), repeats=1)
    # The allocator splits a block only where more than 1 MiB would be left.
    assert 2 * 4_000_000 <= measured.peak_bytes <= 2 * (4_000_000 + 2**20 + 512)


def test_frames_enhanced_in_parts_need_less_memory_than_all_at_once():
    pixels = torch.zeros(1, 32, 32, 32, 3, dtype=torch.uint8)
    classifier = build_classifier("r2plus1d_tiny", num_classes=3, num_frames=32, head_dropout=0.0, seed=0)
    peaks = []
    for at_once in (4, 32):
        recogniser = Recogniser(
            classifier,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            enhancer=build_enhancer("zero_dce"),
            enhanced_at_once=at_once,
        )
        peaks.append(measure(recogniser, pixels, device=CPU, repeats=1).peak_bytes)
    # At the widest layer 64 channels go in and 32 come out, for each pixel of each frame that passes together.
    assert peaks[1] - peaks[0] > (32 - 4) * 32 * 32 * 64 * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 0}, "repeats: found 0, wanted at least 1"),
        ({"size": 0}, "size: found 0, wanted at least 1"),
        ({"frames": 0}, "frames: found 0, wanted at least 1"),
        ({"enhancer": "sun"}, "enhancer.name: unknown name 'sun'"),
        ({"device": torch.device("meta")}, "device: found 'meta', wanted cpu or cuda"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run(None, None, **TINY | change)


def test_a_run_writes_its_record_and_the_table_into_the_document(tmp_path):
    document = tmp_path / "cost.md"
    document.write_text("before\n<!-- cost -->\nold\n<!-- end cost -->\nafter\n")
    text = run(tmp_path / "cost.json", document, **TINY)
    record = json.loads((tmp_path / "cost.json").read_text())
    assert table(record) == text
    assert document.read_text() == f"before\n<!-- cost -->\n{text}\n<!-- end cost -->\nafter\n"
    assert list(record["methods"]) == [ENHANCED, TWO_STREAM, STUDENT]  # 16 frames are enhanced at once anyway
    student = record["methods"][STUDENT]
    assert f"| {student['macs'] / 1e9:.4f} | {student['flops'] / 1e9:.4f} |" in text
    assert "torch.profiler" in text
    assert f"threads: {torch.get_num_threads()}, torch {torch.__version__}" in text
    assert "paper" not in text  # its figures belong to another network and size


def test_other_enhancers_and_more_frames_can_be_compared(tmp_path):
    text = run(
        tmp_path / "cost.json", tmp_path / "new.md", **TINY | {"enhancer": "histogram", "frames": 17, "size": 32}
    )
    methods = json.loads((tmp_path / "cost.json").read_text())["methods"]
    assert list(methods) == [ENHANCED, AT_ONCE, TWO_STREAM, STUDENT]
    assert methods[ENHANCED]["macs"] == methods[STUDENT]["macs"]
    assert "histogram works in NumPy" in text
    assert (tmp_path / "new.md").read_text() == f"<!-- cost -->\n{text}\n<!-- end cost -->\n"


def test_a_document_without_markers_is_refused_before_the_work_and_stays(tmp_path):
    document = tmp_path / "cost.md"
    document.write_text("mine\n")
    with pytest.raises(ValueError, match=r"cost\.md: holds no lines `<!-- cost -->` and `<!-- end cost -->`; add them"):
        run(tmp_path / "cost.json", document, **TINY)
    assert document.read_text() == "mine\n"
    assert not (tmp_path / "cost.json").exists()


def test_the_documents_table_is_its_json():
    record = json.loads((ROOT / "docs" / "cost.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- cost -->\n(.*?)\n<!-- end cost -->", text, re.DOTALL)
    assert found
    assert found[1] == table(record)


def test_the_documents_counts_are_those_of_the_code():
    record = json.loads((ROOT / "docs" / "cost.json").read_text(encoding="utf-8"))
    counts = {
        STUDENT: counts_34(),
        ENHANCED: counts_34(enhancer="zero_dce"),
        TWO_STREAM: counts_34(enhancer="gamma", streams=2),
    }
    for name, wanted in counts.items():
        found = {key: record["methods"][name][key] for key in vars(wanted)}
        assert found == vars(wanted)
    for sentence in (
        "student 304.74 GMAC, which is 609.48 GFLOP",
        "enhancement-based 368.32 GMAC",
        "two-stream 609.48 GMAC",
        "together 305.5129 G",
        "comes to 611.03 G",
        "enhancement-based method is 369.10 G",
        "adds 63.58 G",
        "paper only 4.77",
        "305.51 / 64 = 4.774",
        "4.8 frames of Zero-DCE at 0.993485 G each",
        "2133 - 1599 = 534 MB",
    ):
        assert sentence in table(record)
    text = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    fewer = 1 - counts[STUDENT].macs / counts[ENHANCED].macs
    assert f"{100 * fewer:.0f} % fewer multiply-accumulates" in text

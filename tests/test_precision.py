"""The self-test of bfloat16: sound machines pass, wrong kernels are named."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.clips.views import ViewRule
from pipeline.distillation.fingerprint import PRECISION_NAMES, fingerprint
from pipeline.models.r2plus1d import SpaceConv, TimeConv
from pipeline.models.recogniser import PRECISIONS
from pipeline.training import precision
from pipeline.training.precision import TOLERANCE, bf16_mismatches, check_precision

CPU = torch.device("cpu")


def test_this_machine_computes_the_trunks_convolutions_right():
    assert bf16_mismatches(CPU) == []
    check_precision(CPU, "bf16")


def test_rounding_alone_stays_well_below_the_tolerance(monkeypatch):
    monkeypatch.setattr(precision, "TOLERANCE", -1.0)
    every = bf16_mismatches(CPU)
    assert len(every) == 5 * 5 * 3  # convolutions, lengths, tensors
    assert {each.frames for each in every} == {1, 2, 3, 4, 8}
    # one rounding to 8 bits is 2**-9 / sqrt(3) at least; inputs, weights and results are rounded
    assert all(2**-9 / 2 < each.error < TOLERANCE / 2 for each in every)


def spoil(monkeypatch, kind, frames, change):
    """Let a convolution under autocast give other outputs or gradients for clips of so many frames."""
    forward = kind.forward

    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(context, weight):
            return weight.clone()

        @staticmethod
        def backward(context, gradient):
            return change(gradient)

    def spoilt(self, x):
        if not torch.is_autocast_enabled("cpu") or x.shape[2] != frames:
            return forward(self, x)
        return torch.func.functional_call(Held(self, forward), {"conv.weight": Spoilt.apply(self.weight)}, (x,))

    monkeypatch.setattr(kind, "forward", spoilt)


class Held(nn.Module):
    """Calls a convolution by a given function."""

    def __init__(self, conv, forward):
        super().__init__()
        self.conv = conv
        self.call = forward

    def forward(self, x):
        return self.call(self.conv, x)


@pytest.mark.parametrize("change", [lambda g: g * math.nan, torch.zeros_like, lambda g: g * 1.05])
def test_a_wrong_weight_gradient_over_two_frames_is_refused_and_named(monkeypatch, change):
    spoil(monkeypatch, TimeConv, 2, change)
    wanted = (
        rf"compute\.precision: found bf16, in which torch {torch.__version__.split('+')[0]}.* on cpu \(.*\) computes "
        r"wrongly: weight gradient of TimeConv with stride 1 over 2 frames \(.*\).*set compute\.precision: fp32"
    )
    with pytest.raises(ValueError, match=wanted):
        check_precision(CPU, "bf16")
    found = bf16_mismatches(CPU)
    assert {(each.what, each.frames) for each in found} == {
        ("weight gradient of TimeConv with stride 1", 2),
        ("weight gradient of TimeConv with stride 2", 2),
    }


def test_one_missing_product_is_seen_in_the_outputs(monkeypatch):
    def short(self, x):
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            weight = weight * torch.ones_like(weight).index_fill(4, torch.tensor(2), 0.0)  # the right column
        return F.conv3d(x, weight, stride=self.stride, padding=self.padding)

    monkeypatch.setattr(SpaceConv, "forward", short)
    assert "output of SpaceConv with stride 1" in {each.what for each in bf16_mismatches(CPU)}


def test_plain_convolutions_are_tried_apart(monkeypatch):
    monkeypatch.setattr(precision, "TOLERANCE", -1.0)
    names = {each.what.partition(" of ")[2] for each in bf16_mismatches(CPU, plain=True)}
    assert names == {f"Conv3d {kernel} with stride {s}" for kernel in ("1x3x3", "3x1x1", "3x3x3") for s in (1, 2)}


def test_a_machine_that_cannot_do_bfloat16_is_refused(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("does not support bfloat16")

    monkeypatch.setattr(torch, "autocast", refuse)
    with pytest.raises(ValueError, match=r"bf16, which torch .* cannot do: does not support bfloat16; set compute"):
        check_precision(CPU, "bf16")


def test_float32_is_not_tried(monkeypatch):
    monkeypatch.setattr(precision, "bf16_mismatches", lambda device: pytest.fail("was tried"))
    check_precision(CPU, "fp32")


def test_the_test_draws_nothing_that_training_draws():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    check_precision(CPU, "bf16")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match=r"compute\.precision: found 'fp16', wanted one of fp32, bf16"):
        check_precision(CPU, "fp16")


def store_fields(**precision):
    rule = ViewRule(
        frames=16,
        sampling="spread",
        stride=1,
        jitter=1.0,
        loop=True,
        frame_size=(40, 50),
        size=32,
        scales=(1.0,),
        positions="random",
        flip=True,
        seed=0,
    )
    making = {"teacher_sha256": "0" * 64, "class_names": ("a",), "rule": rule, "mode": "consistent"}
    return fingerprint(**making, colour_range="auto", enhancer_on="view", **precision)


def test_the_logit_store_names_the_precision_that_its_teacher_used():
    assert tuple(PRECISION_NAMES) == PRECISIONS
    assert store_fields()["precision"] == "float32"  # as in stores written before there was a choice
    assert store_fields(precision="fp32") == store_fields()
    assert store_fields(precision="bf16") == store_fields() | {"precision": "bfloat16"}
    with pytest.raises(ValueError, match="precision: found 'float32', wanted one of fp32, bf16"):
        store_fields(precision="float32")

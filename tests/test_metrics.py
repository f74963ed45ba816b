import numpy as np
import pytest

from pipeline.training.loop import Schedule
from pipeline.training.metrics import compare, describe, top_k_hits, wilson_interval


def test_wilson_interval_is_the_textbooks():
    # Wilson (1927) by hand: p = 0.5, n = 10, z = 1.959964: centre 0.5, half width 0.26341.
    low, high = wilson_interval(5, 10)
    assert (low, high) == (pytest.approx(0.23659, abs=1e-4), pytest.approx(0.76341, abs=1e-4))
    assert wilson_interval(0, 10)[0] == 0.0


def test_figures_of_four_clips_are_those_counted_by_hand():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], np.float32))
    figures = describe(logits, np.array([0, 1, 1, 0]), ("A", "B", "C"), bins=10, resamples=100, seed=0)
    assert figures["top1"] == 0.5
    assert figures["top3"] == 1.0
    assert figures["confusion"] == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert figures["per_class"]["A"] == {
        "n": 2,
        "recall": 0.5,
        "recall_low": pytest.approx(0.0945, abs=1e-3),
        "recall_high": pytest.approx(0.9055, abs=1e-3),
        "precision": 0.5,
    }
    assert "C" not in figures["per_class"]
    # Each clip has its own bin: |1 - 0.7|, |1 - 0.8|, |0 - 0.6|, |0 - 0.5|, averaged.
    assert figures["calibration_error"] == pytest.approx((0.3 + 0.2 + 0.6 + 0.5) / 4, abs=1e-6)
    assert figures["calibration_error_low"] <= figures["calibration_error"] <= figures["calibration_error_high"]


def test_the_calibration_errors_interval_is_that_of_a_bootstrap():
    """Confidence 0.75 in one bin, two of three right: the error of n clips with k hits is |k / n - 0.75|."""
    logits = np.log(np.tile(np.array([[0.75, 0.25]], np.float32), (300, 1)))
    labels = np.array([0, 0, 1] * 100)
    figures = describe(logits, labels, ("A", "B"), bins=10, resamples=2000, seed=0)
    error = figures["calibration_error"]
    assert error == pytest.approx(1 / 12, abs=1e-6)
    # As far from zero as here the error moves as the share of hits does: sqrt(2/9/300) = 0.02722, by 1.96 0.0533.
    for side in (error - figures["calibration_error_low"], figures["calibration_error_high"] - error):
        assert side == pytest.approx(0.0533, rel=0.1)


def test_top_k_counts_a_tie_for_the_lower_index():
    logits = np.array([[1.0, 1.0, 0.0]], np.float32)
    assert top_k_hits(logits, np.array([0]), 1).tolist() == [True]
    assert top_k_hits(logits, np.array([1]), 1).tolist() == [False]
    assert top_k_hits(logits, np.array([1]), 2).tolist() == [True]


def test_paired_comparison_counts_the_clips_that_differ():
    first = np.array([1, 1, 1, 1, 1, 0, 0, 1], bool)
    second = np.array([1, 0, 0, 0, 0, 0, 0, 0], bool)
    found = compare(first, second)
    assert (found["difference"], found["only_first"], found["only_second"]) == (pytest.approx(5 / 8), 5, 0)
    assert found["p_value"] == pytest.approx(2 * 0.5**5)
    # Five ones and three zeros: mean 0.625, sample variance 15/56, standard error sqrt(15/56/8) = 0.18298, by 1.96.
    assert found["difference_low"] == pytest.approx(0.625 - 0.35864, abs=1e-5)
    assert found["difference_high"] == pytest.approx(0.625 + 0.35864, abs=1e-5)
    same = compare(first, first)
    assert (same["p_value"], same["difference"]) == (1.0, 0.0)
    # Wilson's upper bound for none of eight: 1.96^2 / (8 + 1.96^2).
    assert same["difference_high"] == -same["difference_low"] == pytest.approx(3.8415 / 11.8415, abs=1e-4)


def test_the_schedule_rises_then_falls_to_zero():
    cosine = Schedule(lr=2.0, shape="cosine", warmup_steps=4, total_steps=104)
    assert [cosine.at(step) for step in (0, 3, 4)] == [0.5, 2.0, 2.0]
    assert cosine.at(54) == pytest.approx(1.0)
    assert 0 < cosine.at(103) < 0.001
    constant = Schedule(lr=2.0, shape="constant", warmup_steps=0, total_steps=10)
    assert {constant.at(step) for step in range(10)} == {2.0}

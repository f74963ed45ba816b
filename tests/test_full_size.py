"""One training step at the paper's size on a CPU, each in its own process, whose peak memory is the system's count."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STEP = """
import json, sys, torch
from pipeline.distillation.losses import student_loss
from pipeline.enhancers.build import build_enhancer
from pipeline.models.classifier import build_classifier
from pipeline.models.recogniser import NORMALIZATIONS, Recogniser
from pipeline.training.machine import set_up_machine
set_up_machine("cpu", 1)
streams = int(sys.argv[1])
classifier = build_classifier(
    "r2plus1d_34", num_classes=11, num_frames=64, head_dropout=0.8, streams=streams, seed=0
)
mean, std = NORMALIZATIONS["kinetics"]
more = {} if streams == 1 else {"enhancer": build_enhancer("gamma"), "dark_stream": (mean, std)}
model = Recogniser(classifier, mean=mean, std=std, **more).train()
pixels = torch.randint(0, 40, (1, 64, 112, 112, 3), dtype=torch.uint8)
logits = model(pixels)
teacher = torch.randn(1, 11)
student_loss(logits, torch.tensor([3]), teacher, temperature=5.0, weight=1.5).backward()
still = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.isfinite().all()]
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
print(json.dumps({"shape": list(logits.shape), "still": still, "peak": peak}))
"""


LONG = pytest.mark.skipif("DLKDD_LONG" not in os.environ, reason="takes a minute or two; set DLKDD_LONG=1 to run it")


# VmHWM and not ru_maxrss, in which a process starts with the peak of the one that started it.
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@LONG
@pytest.mark.parametrize(("streams", "gigabytes"), [(1, 8), (2, 13)])
def test_a_step_at_full_size_fits_a_small_machine(streams, gigabytes):
    result = subprocess.run([sys.executable, "-c", STEP, str(streams)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["shape"] == [1, 11]
    assert found["still"] == []
    assert found["peak"] <= gigabytes * 1e9

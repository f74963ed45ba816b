import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import presets
from pipeline.clips.video import write_video
from pipeline.config import SECTION_TYPES, STUDENT_ONLY, BaselineConfig
from pipeline.params import parse

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests promise equal bytes, which hold for one number of threads."""
    torch.set_num_threads(1)


@pytest.fixture
def make_video():
    """Write a lossless video of smooth seeded noise; returns its frames, uint8 (T, H, W, 3)."""

    def make(path, *, num_frames=12, height=24, width=32, seed=0, lossless=True, level=255):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, level + 1, (num_frames, height // 8, width // 8, 3), dtype=np.uint8)
        frames = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames, fps=30, lossless=lossless)
        return frames

    return make


@pytest.fixture
def arid6():
    """Folder of real dark clips, where the user has them."""
    return _folder_from("DLKDD_ARID6", "real dark clips of ARID")


@pytest.fixture
def egogest10():
    """Folder of real lit clips, where the user has them."""
    return _folder_from("DLKDD_EGOGEST10", "real lit clips of EgoGestAR")


def _folder_from(variable, what):
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} names no folder of {what}")
    return Path(value)


@pytest.fixture(scope="session")
def small_params():
    """Parameters of a small run; arguments change single values: small_params(student={...})."""

    def make(**changes):
        params = presets.demo()
        small = {
            "render": {"train_clips_per_class": 1, "test_clips_per_class": 1, "num_frames": 10, "frame_size": [32, 44]},
            "views": {"frames": 4, "frame_size": [32, 44], "size": 32},
            "enhancer": {"steps": 40, "batch_size": 2, "lr": 0.01},
            "teacher": {"epochs": 2, "batch_size": 4, "warmup_epochs": 0},
            "student": {"epochs": 2, "batch_size": 4, "warmup_epochs": 0},
            "logits": {"views": 2, "batch_size": 4, "minimum_top1": 0.0},
            "evaluate": {"bootstrap": 100},
            "compute": {"device": "cpu", "threads": 1},
        }
        for section in SECTION_TYPES:
            params[section] |= small.get(section, {}) | changes.get(section, {})
        return params

    return make


@pytest.fixture(scope="session")
def small_configs(small_params):
    """Every section of a small run as its dataclass."""

    def make(**changes):
        params = small_params(**changes)
        configs = {name: parse(kind, params[name], where=name) for name, kind in SECTION_TYPES.items()}
        # The baseline reads the student's section without the soft targets.
        return configs | {"baseline": parse(BaselineConfig, params["student"], where="student", extra=STUDENT_ONLY)}

    return make


@pytest.fixture(scope="module")
def with_teacher(tmp_path_factory, small_configs):
    """A run that has its teacher, and no logits yet."""
    from micro import Run  # not above: what needs no run should not import every stage

    run = Run(tmp_path_factory.mktemp("with_teacher") / "micro", small_configs())
    run.folder.mkdir()
    run.render()
    run.prepare(presets.ARID_CLASSES)
    run.enhancer()
    run.teacher()
    return run

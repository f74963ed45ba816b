"""A whole run of the pipeline, small enough for tests: 22 rendered clips, 4 frames of 32x32, 2 epochs."""

import hashlib
import shutil

import torch

from pipeline import presets
from pipeline.config import SECTION_TYPES, STUDENT_ONLY, BaselineConfig
from pipeline.params import parse
from stages import baseline, enhancer, evaluate, logits, prepare, render, report, student, teacher

CPU = torch.device("cpu")
RESULTS = (
    "clips.csv",
    "enhancer.safetensors",
    "teacher.safetensors",
    "logits.h5",
    "student.safetensors",
    "baseline.safetensors",
    "metrics.json",
    "details.json",
    "MODEL_CARD.md",
)

FIGURES = ("metrics.json", "details.json", "predictions.csv", "confusion.csv", "MODEL_CARD.md")
"""What evaluate writes, in the order of its arguments."""


SMALL = {
    "render": {"train_clips_per_class": 1, "test_clips_per_class": 1, "num_frames": 10, "frame_size": [32, 44]},
    "views": {"frames": 4, "frame_size": [32, 44], "size": 32},
    "enhancer": {"steps": 40, "batch_size": 2, "lr": 0.01},
    "teacher": {"epochs": 2, "batch_size": 4, "warmup_epochs": 0},
    "student": {"epochs": 2, "batch_size": 4, "warmup_epochs": 0},
    "logits": {"views": 2, "batch_size": 4, "minimum_top1": 0.0},
    "evaluate": {"bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}
"""What such a run changes of the demo's parameters."""


def small_params(**changes):
    """Parameters of a small run; arguments change single values: small_params(student={...})."""
    params = presets.demo()
    for section in SECTION_TYPES:
        params[section] |= SMALL.get(section, {}) | changes.get(section, {})
    return params


def small_configs(**changes):
    """Every section of a small run as its dataclass."""
    params = small_params(**changes)
    configs = {name: parse(kind, params[name], where=name) for name, kind in SECTION_TYPES.items()}
    # The baseline reads the student's section without the soft targets.
    return configs | {"baseline": parse(BaselineConfig, params["student"], where="student", extra=STUDENT_ONLY)}


class Run:
    """The files of a run, and its stages with these settings."""

    def __init__(self, folder, configs):
        self.folder = folder
        self.configs = configs

    def __getitem__(self, name):
        return self.folder / name

    @property
    def videos(self):
        return self["rendered/videos"]

    def copy(self, folder, configs=None, *, work=False):
        """The same files in another folder, with other settings."""
        shutil.copytree(self.folder, folder, ignore=None if work else shutil.ignore_patterns(".work"))
        return Run(folder, configs or self.configs)

    def machine(self):
        return {"compute": self.configs["compute"], "device": CPU}

    def render(self):
        render.run(self["rendered"], config=self.configs["render"])

    def prepare(self, class_names, **changes):
        given = {"train": self["rendered/train.txt"], "test": self["rendered/test.txt"]} | changes
        prepare.run(
            self.videos,
            given["train"],
            given["test"],
            self["clips.csv"],
            self["statistics.json"],
            self["quarantine.csv"],
            class_names=class_names,
            class_ids=list(range(len(class_names))),
            config=self.configs["prepare"],
            colour_range="auto",
        )

    def enhancer(self):
        outs = (self["enhancer.safetensors"], self["enhancer.png"], self["enhancer.json"])
        views = self.configs["views"]
        config = self.configs["enhancer"]
        enhancer.run(self["clips.csv"], self.videos, *outs, config=config, views=views, **self.machine())

    def teacher(self, **more):
        outs = [self[f"teacher{end}"] for end in (".safetensors", ".json", "_curve.csv", "_timings.json")]
        teacher.run(
            self["clips.csv"],
            self.videos,
            self["statistics.json"],
            self["enhancer.safetensors"],
            *outs,
            config=self.configs["teacher"],
            enhancer_on=self.configs["enhancer"].on,
            views=self.configs["views"],
            **self.machine(),
            **more,
        )

    def logits(self):
        logits.run(
            self["clips.csv"],
            self.videos,
            self["teacher.safetensors"],
            self["logits.h5"],
            config=self.configs["logits"],
            mode=self.configs["views"].mode,
            **self.machine(),
        )

    def _dark(self):
        return {
            "num_views": self.configs["logits"].views,
            "views": self.configs["views"],
            **self.machine(),
        }

    def student(self):
        student.run(
            self["clips.csv"],
            self.videos,
            self["statistics.json"],
            self["logits.h5"],
            self["teacher.json"],
            *[self[f"student{end}"] for end in (".safetensors", "_curve.csv", "_timings.json")],
            config=self.configs["student"],
            **self._dark(),
        )

    def baseline(self):
        baseline.run(
            self["clips.csv"],
            self.videos,
            self["statistics.json"],
            *[self[f"baseline{end}"] for end in (".safetensors", "_curve.csv", "_timings.json")],
            config=self.configs["baseline"],
            **self._dark(),
        )

    def evaluate(self):
        evaluate.run(
            self["clips.csv"],
            self.videos,
            {kind: self[f"{kind}.safetensors"] for kind in ("baseline", "teacher", "student")},
            self["metrics.json"],
            self["details.json"],
            self["predictions.csv"],
            self["confusion.csv"],
            self["MODEL_CARD.md"],
            config=self.configs["evaluate"],
            **self.machine(),
        )

    def report(self, params):
        report.run(self.folder, self["report.html"], videos=self.videos, params=params)

    def hashes(self, names=RESULTS):
        return {name: hashlib.sha256(self[name].read_bytes()).hexdigest() for name in names}

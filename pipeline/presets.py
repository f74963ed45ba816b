"""What `dlkdd use` writes into params.yaml: complete sets of parameters, nothing left to defaults."""

import hashlib
import io
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from pipeline.clips import probe_apart
from pipeline.clips.files import replacing
from pipeline.config import SECTION_TYPES
from pipeline.mapping_file import parse_yaml
from pipeline.params import parse

Params = dict[str, Any]

# ARID's list of class folders; the rendered clips use the same names and order.
ARID_CLASSES = ["Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave"]

# `Class/Class_<scene>_<clip>.mp4`: scenes are numbered within a class in ARID's names.
ARID_SCENES = r"^(.*)_(\d+)_\d+\.[^.]+$"


def paper() -> Params:
    """The numbers of the paper for ARID; where it is silent, the defaults of the code that it builds on."""
    classifier = {
        "model": "r2plus1d_34",
        "head": "attention",
        "head_dropout": 0.8,
        "keep_probability": 1.0,
        "bn_momentum": 0.1,
        "normalization": "kinetics",
        "remove_temporal_mean": False,
        "weights": None,
        "weights_up_to": "backbone",
        "epochs": 30,
        "batch_size": 8,
        "micro_batches": 1,
        "lr": 1e-4,
        "weight_decay": 1e-5,
        "schedule": "constant",
        "warmup_epochs": 0,
        "select": "last",
        "seed": 0,
    }
    return {
        "runs": [],
        "rendered": [],
        "inputs": {},
        "render": {
            "train_clips_per_class": 16,
            "test_clips_per_class": 8,
            "train_scenes": 8,
            "test_scenes": 4,
            "num_frames": 24,
            "frame_size": [64, 86],
            "fps": 15,
            "exposure_ev": -5.0,
            "lit_twin": False,
            "crf": 18,
            "seed": 0,
        },
        "prepare": {
            "on_leak": "error",
            "max_bad": 0,
            "max_memory_mb": probe_apart.MEMORY_MB,
            "max_seconds": probe_apart.SECONDS,
            "links": True,
            "scene_pattern": ARID_SCENES,
            "holdout": 0,
            "test_share": 0.3,
            "seed": 0,
        },
        "views": {
            "frames": 64,
            "sampling": "consecutive",
            "stride": 1,
            "jitter": 1.0,
            "loop": True,
            "frame_size": [128, 170],
            "size": 112,
            "scales": [1.0, 0.875, 0.75, 0.66],
            "positions": "fixed",
            "flip": True,
            "mode": "consistent",
            "colour_range": "auto",
            "seed": 0,
        },
        "enhancer": {
            "name": "zero_dce",
            "gamma": 1.8,
            "gamma_table": False,
            "weights": None,
            "on": "view",
            "steps": 2000,
            "patch_size": 64,
            "batch_size": 8,
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "grad_clip": 0.1,
            "exposure_target": 0.6,
            "exposure_patch": 16,
            "spatial_weight": 1.0,
            "exposure_weight": 10.0,
            "colour_weight": 5.0,
            "variation_weight": 200.0,
            "seed": 0,
        },
        "teacher": classifier | {"input": "enhanced", "unfreeze_enhancer": False},
        "logits": {"views": 30, "batch_size": 8, "minimum_top1": None},
        "student": classifier
        | {
            "kd_weight": 1.5,
            "kd_decay": 0.95,
            "temperature": 5.0,
            "scale_by_temperature_squared": False,
            "soft_targets": "teacher",
            "pixel_check": "strict",
        },
        "evaluate": {
            "batch_size": 8,
            "clips": 1,
            "crops": "centre",
            "average": "logits",
            "calibration_bins": 15,
            "bootstrap": 1000,
            "luma_bins": 4,
            "stress_ev": [0.0, -1.0, -2.0, -3.0, -4.0, -5.0],
            "stress_clips": 200,
            "seed": 0,
        },
        "compute": {
            "device": "auto",
            "threads": 2,
            "deterministic": False,
            "precision": "fp32",
            "checkpoint_activations": False,
            "workers": 0,
            "cache": "auto",
            "cache_gb": 20.0,
        },
    }


def tiny() -> Params:
    """Numbers with which a small network trains from random weights on a CPU."""
    params = paper()
    small = {
        "model": "r2plus1d_tiny",
        "head_dropout": 0.2,
        "normalization": "dataset",
        "epochs": 25,
        "batch_size": 8,
        "lr": 3e-3,
        "weight_decay": 1e-2,
        "schedule": "cosine",
        "warmup_epochs": 2,
    }
    params["teacher"] |= small
    params["student"] |= small
    # With few clips, steady spacing and one crop scale: both were measured to matter more than variety.
    params["views"] |= {"frames": 16, "sampling": "spread", "jitter": 0.2, "scales": [0.875], "positions": "random"}
    params["enhancer"] |= {"on": "frame", "steps": 400, "patch_size": 32}
    # As many views as epochs, as in the paper's numbers: from random weights five gave 0.784, one each epoch 0.860.
    params["logits"] |= {"views": params["student"]["epochs"], "batch_size": 16}
    # On a CPU, enhancing every darkened frame again costs the teacher ten times what its answer does.
    params["evaluate"] |= {"batch_size": 16, "stress_clips": 22}
    return set_size(params, 64)


def demo() -> Params:
    """Rendered clips, small enough for minutes on two CPU cores."""
    params = tiny()
    root = "data/demo/rendered"
    params["runs"], params["rendered"] = ["demo"], ["demo"]
    params["inputs"]["demo"] = {
        "videos": f"{root}/videos",
        "train": f"{root}/train.txt",
        "test": f"{root}/test.txt",
        "classes": ARID_CLASSES,
        "class_ids": list(range(len(ARID_CLASSES))),
    }
    # `Class/Class_<scene>_<clip>.mp4`: in the rendered clips a scene is one place for all classes.
    params["prepare"]["scene_pattern"] = r"_([^_/]+)_\d+\.[^.]+$"
    params["views"] |= {"frame_size": [64, 86], "size": 56, "sampling": "consecutive"}
    for section in ("teacher", "student"):
        params[section] |= {"epochs": 20, "lr": 4e-3}
    params["logits"]["views"] = 5
    return params


def set_size(params: Params, size: int) -> Params:
    """Set the side of the view, and the resized frame in the proportion of the paper's 112 of 128 x 170."""
    params["views"] |= {"size": size, "frame_size": [round(size * 128 / 112), round(size * 170 / 112)]}
    return params


PROTOCOLS = {
    "darklight": "crops of four scales at fixed places of a frame that is 1.14 times as high as the view",
    "resize": "the whole frame resized to the view, as the paper's words say; no crop",
}


def set_protocol(params: Params, protocol: str) -> Params:
    """Set how training crops are taken, by a name of `PROTOCOLS`."""
    if protocol == "resize":
        size = params["views"]["size"]
        params["views"] |= {"frame_size": [size, size], "scales": [1.0], "positions": "random"}
    else:
        params["views"] |= {"scales": [1.0, 0.875, 0.75, 0.66], "positions": "fixed"}
    return params


def settle(params: Params, chosen: Collection[str], *, view_each_epoch: bool = False) -> Params:
    """Let values that nobody chose follow those that were chosen.

    Args:
        params: changed in place.
        chosen: names such as `enhancer.name` that the user set.
        view_each_epoch: whether the preset stores a view for each epoch, as then other numbers of epochs do.
    """
    follow: dict[str, Any] = {}
    epochs = params["student"]["epochs"]
    if view_each_epoch and type(epochs) is int and epochs > 0:  # else the message is to name the epochs
        follow["logits.views"] = 1 if params["views"]["mode"] == "fixed" else epochs
    if params["teacher"]["input"] == "both":
        follow |= {"enhancer.name": "gamma", "enhancer.on": "view"}  # DarkLight's light; it sees frames both ways
    elif params["teacher"]["input"] == "dark":
        follow["enhancer.name"] = "none"
    for section in ("teacher", "student"):
        if params[section]["model"] == "swin3d_b" and params[section]["normalization"] == "kinetics":
            follow[f"{section}.normalization"] = "imagenet"  # what torchvision's weights of it were trained with
    for name, value in follow.items():
        section, key = name.split(".")
        if name not in chosen:
            params[section][key] = value
    return params


def override(params: Params, assignments: Sequence[str]) -> Params:
    """Set values by `section.key=value`, the value in YAML.

    Raises:
        ValueError: an unknown section or key, or no `=`.
    """
    for assignment in assignments:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.*)", assignment)
        if match is None:
            raise ValueError(f"--set {assignment}: wanted SECTION.KEY=VALUE, such as student.kd_weight=0.5")
        section, key, text = match.groups()
        if section not in SECTION_TYPES or key not in params[section]:
            known = ", ".join(params[section]) if section in SECTION_TYPES else ", ".join(SECTION_TYPES)
            raise ValueError(f"--set {assignment}: unknown key '{section}.{key}'; known are {known}")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise ValueError(f"--set {assignment}: the value {error}") from error
        params[section][key] = float(value) if isinstance(params[section][key], float) and _is_number(value) else value
    return params


def write_params(path: Path, params: Mapping[str, Any], *, name: str, force: bool) -> None:
    """Write params.yaml after checking every section.

    Raises:
        ValueError: a value out of its range, or the file was edited since `dlkdd use` wrote it.
    """
    for section, kind in SECTION_TYPES.items():
        parse(kind, params[section], where=section)
    check_together(params)
    for key, places in params["inputs"].items():
        for name_of_place in ("videos", "train", "test"):
            _check_for_shell(f"inputs.{key}.{name_of_place}", places[name_of_place])
    if path.exists() and not force and is_edited(path):
        raise ValueError(f"{path}: was edited since `dlkdd use` wrote it; keep a copy, then add --force to replace it")
    body = _as_yaml(params)
    header = f"# Written by `dlkdd use {name}`; what each key means: pipeline/config.py. Edit freely.\n"
    with replacing(path) as partial:
        partial.write_text(f"{header}# sha256 {_digest(body)}\n{body}", encoding="utf-8")


def check_together(params: Mapping[str, Any]) -> None:
    """Refuse sections that do not go together, with a ValueError."""
    if params["views"]["mode"] == "fixed" and params["logits"]["views"] != 1:
        raise ValueError("logits.views: views.mode: fixed has one view a clip; set logits.views to 1")
    if params["evaluate"]["crops"] == "ten" and not params["views"]["flip"]:
        raise ValueError("evaluate.crops: ten mirrors clips, views.flip: false forbids it; set evaluate.crops: five")
    if params["teacher"]["unfreeze_enhancer"] and params["enhancer"]["name"] != "zero_dce":
        raise ValueError(
            f"teacher.unfreeze_enhancer: true has nothing to train in enhancer.name: {params['enhancer']['name']}; "
            "set it to false, or take zero_dce"
        )
    if params["teacher"]["input"] == "both" and params["enhancer"]["on"] != "view":
        raise ValueError("teacher.input: both sees frames dark and enhanced; set enhancer.on: view")
    for section in ("teacher", "student"):
        if params[section]["select"] == "best" and params["prepare"]["holdout"] == 0:
            raise ValueError(f"{section}.select: best needs held-out scenes; set prepare.holdout to 1 or more")


def is_edited(path: Path) -> bool:
    """Whether a params.yaml differs from what `dlkdd use` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return len(lines) < 2 or lines[1] != f"# sha256 {_digest(''.join(lines[2:]))}\n"


def _as_yaml(params: Mapping[str, Any]) -> str:
    """Mappings in blocks, lists on one line."""

    def styled(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: styled(part) for key, part in value.items()}
        if isinstance(value, list):
            sequence = CommentedSeq(value)
            sequence.fa.set_flow_style()
            return sequence
        return value

    writer, buffer = YAML(), io.StringIO()
    writer.width = 110
    writer.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    writer.dump(styled(params), buffer)
    return buffer.getvalue()


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_for_shell(where: str, path: str) -> None:
    """DVC gives a stage's command to a shell, with these paths in double quotes."""
    if re.search(r'["$`\\\x00-\x1f\x7f\ud800-\udfff]|^-', path):
        raise ValueError(
            f"{where}: found {path!r}, wanted a path without quotes, $, `, \\ and control codes that does not begin "
            "with -, since DVC puts it into a shell's command line; rename it, or make a link with another name"
        )

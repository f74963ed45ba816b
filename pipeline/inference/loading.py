"""A trained classifier from its checkpoint, with all that its input needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.clips.views import PIXEL_PATH
from pipeline.enhancers.build import build_enhancer
from pipeline.enhancers.zero_dce import load_official
from pipeline.models.classifier import Classifier, build_classifier
from pipeline.models.inference_form import for_inference
from pipeline.models.recogniser import Recogniser
from pipeline.models.state_dicts import check_state_dict
from pipeline.training.checkpoint import REMEDY, Preprocessing, Record, arguments_for, load_checkpoint
from pipeline.training.loaded_enhancer import load_enhancer


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint, ready to use."""

    recogniser: Recogniser
    """Pixels -> logits, in evaluation mode; enhances by itself where the checkpoint enhances views."""
    preprocessing: Preprocessing
    """What its pixels must be."""
    enhancer: nn.Module | None
    """A teacher's, None for dark input; where `preprocessing.enhancer_on` is `frame`, the frames must pass it first."""
    record: Record


def load_recogniser(
    path: Path,
    *,
    device: torch.device,
    kind: str | None = None,
    precision: str = "fp32",
    training_form: bool = False,
) -> Loaded:
    """Rebuild a teacher, student or baseline from its checkpoint alone.

    Args:
        path: the checkpoint.
        device: where it will run.
        kind: teacher, student or baseline; None takes any.
        precision: "fp32" or "bf16", of the classifier.
        training_form: keep the layers under their names in the checkpoint and able to train; otherwise the classifier
            is rewritten by `for_inference`, which is faster and gives the same logits up to rounding.

    Raises:
        ValueError: missing, damaged, or another kind of checkpoint, or one whose record and weights do not fit each
            other; or an unknown precision.
        OSError: the file cannot be read.
    """
    tensors, record = load_checkpoint(path, kind=kind)
    if record.preprocessing is None:
        raise ValueError(f"{path}: is a checkpoint of a {record.kind}, which classifies nothing; wanted a student")
    preprocessing = record.preprocessing
    if preprocessing.pixel_path != PIXEL_PATH:
        raise ValueError(
            f"{path}: pixel_path: found '{preprocessing.pixel_path}', wanted '{PIXEL_PATH}'; the conversion of "
            "pixels has changed since, train again"
        )
    classifier, enhancer = _built(path, tensors, record, preprocessing)
    dark = None
    if preprocessing.dark_mean is not None and preprocessing.dark_std is not None:
        dark = (preprocessing.dark_mean, preprocessing.dark_std)
    if (dark is None) == (preprocessing.input == "both"):
        raise ValueError(f"{path}: record.preprocessing.input: found {preprocessing.input}, of other streams; {REMEDY}")
    on = preprocessing.enhancer_on
    if (on == "view" or dark is not None) and (on != "view" or enhancer is None):
        raise ValueError(f"{path}: record.preprocessing.enhancer_on: found {on}, wanted view and an enhancer; {REMEDY}")
    recogniser = Recogniser(
        classifier if training_form else for_inference(classifier, precision=precision),
        mean=preprocessing.mean,
        std=preprocessing.std,
        enhancer=enhancer if preprocessing.enhancer_on == "view" else None,
        dark_stream=dark,
        remove_temporal_mean=preprocessing.remove_temporal_mean,
        precision=precision,
    )
    recogniser.to(device).eval()
    if enhancer is not None:
        enhancer.to(device).eval()
    return Loaded(recogniser=recogniser, preprocessing=preprocessing, enhancer=enhancer, record=record)


def open_enhancer(name: str, weights: Path | None, *, gamma: float = 1.8) -> nn.Module:
    """An enhancer ready to use, on the CPU and in evaluation mode.

    Args:
        name: see `build_enhancer`.
        weights: for zero_dce: what the stage enhancer wrote, or the authors' file. None for all others.
        gamma: of gamma.

    Raises:
        ValueError: weights are missing, or given to a method that has none; or the file is damaged or another one.
    """
    if name != "zero_dce":
        if weights is not None:
            raise ValueError(f"{weights}: {name} has no weights; leave --weights out or take zero_dce")
        return build_enhancer(name, gamma=gamma).eval()
    if weights is None:
        raise ValueError("zero_dce needs weights: a run's enhancer.safetensors, or the published file; give --weights")
    if weights.suffix != ".safetensors":
        return load_official(weights)[0]
    enhancer, record = load_enhancer(weights)
    if (found := record.model["name"]) != name:
        raise ValueError(f"{weights}: is a checkpoint of {found}, wanted {name}; name that --enhancer")
    return enhancer


def _built(
    path: Path, tensors: Mapping[str, Tensor], record: Record, preprocessing: Preprocessing
) -> tuple[Classifier, nn.Module | None]:
    """The networks of a checkpoint with its weights.

    Raises:
        ValueError: the record describes no network, or one of other sizes than its weights have.
    """
    model = arguments_for(build_classifier, record.model, where=f"{path}: record.model", given=("seed",))
    # Before anything is built, since a few digits can ask for any amount of memory.
    bias = tensors.get("classifier.head.classifier.bias")
    sizes = {
        "num_classes": (model["num_classes"], len(record.class_names), 0 if bias is None else bias.numel()),
        "num_frames": (model["num_frames"], preprocessing.view_rule.frames),
    }
    for name, found in sizes.items():
        if len(set(found)) > 1:
            raise ValueError(
                f"{path}: record.model.{name}: found {found[0]}, where other parts of the file say "
                f"{', '.join(map(str, found[1:]))}; {REMEDY}"
            )
    light = preprocessing.enhancer
    if light is not None:
        light = arguments_for(build_enhancer, light, where=f"{path}: record.preprocessing.enhancer")
    try:
        classifier = build_classifier(seed=0, **model)
        enhancer = None if light is None else build_enhancer(**light)
    except ValueError as error:
        raise ValueError(f"{path}: record: {error}; {REMEDY}") from error
    parts = nn.ModuleDict({"classifier": classifier} | ({} if enhancer is None else {"enhancer": enhancer}))
    check_state_dict(tensors, parts.state_dict(), path, remedy=REMEDY)
    parts.load_state_dict(tensors)
    return classifier, enhancer

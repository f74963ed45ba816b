"""Checkpoints of random weights: what predicts does not have to predict well."""

from pipeline.clips.views import ViewRule
from pipeline.enhancers.build import build_enhancer
from pipeline.models.classifier import build_classifier
from pipeline.training.checkpoint import Preprocessing, Record, save_checkpoint

CLASSES = ("Drink", "Jump", "Run")

RULE = {
    "frames": 4,
    "sampling": "consecutive",
    "stride": 1,
    "jitter": 0.2,
    "loop": True,
    "frame_size": (32, 44),
    "size": 32,
    "scales": (1.0,),
    "positions": "random",
    "flip": True,
    "seed": 0,
}


def write_checkpoint(
    path, *, kind="student", classes=CLASSES, seed=1, light="none", settings=None, weights=None, **rule
):
    """Write one; `light` is none, frame (a gamma curve before the crop), view (behind it) or both (two streams).

    `weights` changes the state dict in place before it is written; `rule` changes single settings of the views.
    """
    rule = ViewRule(**RULE | rule)
    streams = 2 if light == "both" else 1
    model = {
        "name": "r2plus1d_tiny",
        "num_classes": len(classes),
        "num_frames": rule.frames,
        "head_dropout": 0.0,
        "streams": streams,
    }
    tensors = {f"classifier.{name}": value for name, value in build_classifier(seed=seed, **model).state_dict().items()}
    enhancer = None if light == "none" else {"name": "gamma", "gamma": 2.2}
    if enhancer is not None:
        tensors |= {f"enhancer.{name}": value for name, value in build_enhancer(**enhancer).state_dict().items()}
    if weights is not None:
        weights(tensors)
    dark = {"dark_mean": (0.2, 0.2, 0.2), "dark_std": (0.3, 0.3, 0.3)} if light == "both" else {}
    preprocessing = Preprocessing(
        view_rule=rule,
        colour_range="auto",
        mean=(0.4, 0.4, 0.4),
        std=(0.2, 0.2, 0.2),
        enhancer_on="view" if light == "both" else light,
        input={"none": "dark", "both": "both"}.get(light, "enhanced"),
        enhancer=enhancer,
        **dark,
    )
    record = Record(
        kind=kind,
        class_names=tuple(classes),
        model=model,
        preprocessing=preprocessing,
        settings=settings or {},
        metrics={},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, tensors, record)
    return path

"""What teacher, student and baseline have in common: build and train a classifier of views."""

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.clips.clip_index import Clip
from pipeline.clips.dataset import Batches, CentreViews, FrameSource, ViewDataset
from pipeline.clips.files import replacing
from pipeline.clips.video import Frames
from pipeline.clips.views import View, ViewRule
from pipeline.mapping_file import read_json
from pipeline.models.classifier import Classifier, build_classifier, load_weights
from pipeline.models.recogniser import NORMALIZATIONS, Recogniser
from pipeline.training.activations import checkpoint_activations
from pipeline.training.distributed import Ranks
from pipeline.training.live_curves import live_curves
from pipeline.training.loop import LossOf, Schedule, Trained, fit
from pipeline.training.parts import Steps, check_parts
from pipeline.training.work_folder import work_folder, work_key, work_root


def new_classifier(
    settings: Mapping[str, Any], *, num_classes: int, num_frames: int, streams: int = 1
) -> tuple[Classifier, dict[str, Any], str | None]:
    """Build a classifier from a section of params.yaml.

    Returns:
        The network, the arguments that rebuild it, and the sha256 of the pretrained weights it starts from.
    """
    arguments = {
        "name": settings["model"],
        "num_classes": num_classes,
        "num_frames": num_frames,
        "head": settings["head"],
        "head_dropout": settings["head_dropout"],
        "keep_probability": settings["keep_probability"],
        "bn_momentum": settings["bn_momentum"],
        "streams": streams,
    }
    classifier = build_classifier(seed=settings["seed"], **arguments)
    weights = settings["weights"]
    if weights is None:
        return classifier, arguments, None
    return classifier, arguments, load_weights(classifier, Path(weights), up_to=settings["weights_up_to"])


def weights_files(weights: str | None) -> list[Path]:
    """The pretrained file as an input of a stage: unfinished work belongs to its content, not to its name.

    Raises:
        ValueError: there is no such file.
    """
    if weights is None:
        return []
    path = Path(weights)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such weights; check the keys `weights` in params.yaml. Results that `dvc repro` removed "
            "before are brought back by `dvc checkout`"
        )
    return [path]


def normalization(
    name: str, measured: tuple[Sequence[float], Sequence[float]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of R, G, B by name; `dataset` is what was measured on the training frames."""
    mean, std = measured if name == "dataset" else NORMALIZATIONS[name]
    return tuple(mean), tuple(std)


def read_statistics(path: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of R, G, B over the dark training frames, as prepare measured them."""
    remedy = "run `dlkdd prepare` (or `dvc repro`) first"
    content = read_json(path, remedy=remedy, keys=("mean", "std"))
    for name in ("mean", "std"):
        values = content[name]
        if not isinstance(values, list) or len(values) != 3 or not all(type(value) in (int, float) for value in values):
            raise ValueError(f"{path}: {name}: found {str(values)[:80]}, wanted three numbers; {remedy}")
    return content["mean"], content["std"]


def train_classifier(
    recogniser: Recogniser,
    *,
    train: Sequence[Clip],
    holdout: Sequence[Clip],
    source: FrameSource,
    rule: ViewRule,
    view_of: Callable[[Clip, int], View],
    check: Callable[[Clip, int, Frames], None] | None,
    loss_of: LossOf,
    settings: Mapping[str, Any],
    workers: int,
    device: torch.device,
    work: Path,
    title: str,
    ranks: Ranks | None = None,
    checkpointed: bool = False,
    live: Path | None = None,
) -> Trained:
    """Train with AdamW from the last finished epoch on.

    Args:
        recogniser: pixels -> logits.
        train: training clips; positions in batches refer to them.
        holdout: clips of held-out scenes, seen through their centre view; may be empty.
        source: frames.
        rule: what views are drawn from.
        view_of: (clip, epoch) -> view of a training clip.
        check: see ViewDataset.
        loss_of: see LossOf.
        settings: epochs, batch_size, micro_batches, lr, weight_decay, schedule, warmup_epochs, select, seed.
        workers: reading processes.
        device: where to train.
        work: folder of the state of finished epochs, of the first process.
        title: for messages.
        ranks: the processes that train together; None for one.
        checkpointed: keep less of the trunk's activations, and compute them again going back.
        live: folder of curves that grow while training, see `live_curves`; None for none.

    Raises:
        ValueError: the number of processes does not divide the parts of a batch, or as in `fit`.
    """
    ranks = ranks or Ranks()
    check_parts(title, micro_batches=settings["micro_batches"], processes=ranks.size)
    recogniser.to(device)
    if checkpointed:
        checkpoint_activations(recogniser.classifier.get_submodule("trunk"))
    batch_size, seed = settings["batch_size"], settings["seed"]
    seen = ViewDataset(train, source=source, view_of=view_of, size=rule.size, check=check)
    held = ViewDataset(holdout, source=source, view_of=CentreViews(rule=rule), size=rule.size)
    steps = Steps(
        seen,
        batch_size=batch_size,
        micro_batches=settings["micro_batches"],
        seed=seed,
        workers=workers,
        ranks=ranks,
    )
    weights = [weight for weight in recogniser.parameters() if weight.requires_grad]
    with live_curves(live / title if live is not None and ranks.first else None) as show:
        return fit(
            recogniser,
            steps,
            loss_of,
            torch.optim.AdamW(weights, lr=settings["lr"], weight_decay=settings["weight_decay"]),
            Schedule(
                lr=settings["lr"],
                shape=settings["schedule"],
                warmup_steps=settings["warmup_epochs"] * len(steps),
                total_steps=settings["epochs"] * len(steps),
            ),
            epochs=settings["epochs"],
            seed=seed,
            device=device,
            state_file=work / "state.pt",
            holdout=Batches(held, batch_size=batch_size, seed=None, workers=workers) if holdout else None,
            select=settings["select"],
            title=title,
            ranks=ranks,
            show=show,
        )


@contextlib.contextmanager
def first_ones_folder(
    ranks: Ranks,
    stage: str,
    *,
    out: Path,
    settings: Mapping[str, object],
    inputs: Sequence[Path],
    fresh: bool,
    module: str | None = None,
) -> Iterator[Path]:
    """The work folder, held by the first of several processes; the others know its name and leave it alone.

    See `work_folder`.

    Raises:
        ValueError: an input is missing, or on the machine of another process parameters, inputs, code or versions are
            not those of the first one.
    """
    if ranks.first:
        with work_folder(stage, out=out, settings=settings, inputs=inputs, fresh=fresh, module=module) as work:
            ranks.from_first((work / "key").read_text(encoding="utf-8"))
            yield work
        return
    found = work_key(stage, settings=settings, inputs=inputs, module=module)
    wanted = ranks.from_first(found)
    if found != wanted:
        raise ValueError(
            f"{stage}: process {ranks.rank} of {ranks.size} found parameters, input files, code or versions of hash "
            f"{found[:12]}, wanted those of process 0, {wanted[:12]}; bring its machine to the same"
        )
    yield work_root(out) / stage


def write_curve(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Write the learning curve as csv, one row an epoch."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(curve[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in curve)


def write_timings(path: Path, trained: Trained) -> None:
    """Write what differs from run to run: seconds and memory."""
    content = {"seconds": round(trained.seconds, 2), "peak_memory_bytes": trained.peak_memory_bytes}
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

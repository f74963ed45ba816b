"""A student taught by the teacher itself, in place of a store of its logits: what `dlkdd live` does."""

from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.clips.clip_index import Clip, class_names_in, of_subset, read_clips
from pipeline.clips.dataset import DrawnViews, FrameSource
from pipeline.clips.files import sha256_of
from pipeline.clips.frame_cache import cache_policy
from pipeline.clips.views import view_rule
from pipeline.config import ComputeConfig, StudentConfig, ViewsConfig, plain
from pipeline.distillation.live import LiveTeacher
from pipeline.enhancers.enhanced_frames import open_teacher_frames
from pipeline.inference.loading import load_recogniser
from pipeline.training.dark_training import Lessons, train_dark
from pipeline.training.distributed import joined
from pipeline.training.work_folder import work_root
from stages.student import distillation_loss


def run(
    clip_index: Path,
    videos: Path,
    statistics: Path,
    teacher: Path,
    checkpoint: Path,
    curve: Path,
    timings: Path,
    *,
    config: StudentConfig,
    num_views: int,
    views: ViewsConfig,
    compute: ComputeConfig,
    device: torch.device,
    fresh: bool = False,
) -> None:
    """Write the checkpoint of a student that was taught by the teacher itself.

    Raises:
        ValueError: the teacher is of other classes or views, the soft targets are another's, or as in
            `train_dark`.
    """
    if config.soft_targets != "teacher":
        raise ValueError(
            f"student.soft_targets: {config.soft_targets} is made from a store; run `dlkdd student`, or set teacher"
        )
    listed = read_clips(clip_index)
    train, rule = of_subset(listed, "train"), view_rule(plain(views))
    with joined(device) as ranks:

        def lessons(source: FrameSource) -> Lessons:
            answered = open_teacher(
                teacher,
                train,
                videos,
                class_names_in(listed),
                num_views=num_views,
                views=views,
                compute=compute,
                work=checkpoint,
                device=device,
            )
            return Lessons(
                view_of=DrawnViews(
                    rule=rule, mode=views.mode, num_views=None if views.mode == "independent" else num_views
                ),
                loss_of=distillation_loss(answered, config),
                described={"live_teacher": sha256_of(teacher)},
            )

        train_dark(
            "student",
            listed,
            videos,
            statistics,
            checkpoint,
            curve,
            timings,
            lessons=lessons,
            inputs=[clip_index, statistics, teacher],
            config=config,
            num_views=num_views,
            views=views,
            compute=compute,
            device=device,
            ranks=ranks,
            fresh=fresh,
            stage="live",
            module="pipeline.commands.live_student",
        )


def open_teacher(
    path: Path,
    train: Sequence[Clip],
    videos: Path,
    class_names: tuple[str, ...],
    *,
    num_views: int,
    views: ViewsConfig,
    compute: ComputeConfig,
    work: Path,
    device: torch.device,
) -> LiveTeacher:
    """The teacher of a checkpoint, with its enhancer, ready to answer for the training clips.

    Args:
        path: the checkpoint.
        train: the training clips.
        videos: root that clip ids are relative to.
        class_names: of the run.
        num_views: V; epoch t is answered for view t mod V, as from a store.
        views: the section of params.yaml.
        compute: the machine.
        work: an out; kept frames lie beside it.
        device: where the teacher computes.

    Raises:
        ValueError: it is no teacher, or one of other classes or views.
    """
    loaded = load_recogniser(path, device=device, kind="teacher", precision=compute.precision)
    rule, seen = view_rule(plain(views)), loaded.preprocessing
    for what, found, wanted in (
        ("class names", loaded.record.class_names, class_names),
        ("views", (seen.view_rule, seen.colour_range), (rule, views.colour_range)),
    ):
        if found != wanted:
            raise ValueError(f"{path}: {what}: found {found}, wanted those of the student: {wanted}; train it again")
    bright = None
    if seen.enhancer_on == "frame" or views.mode == "independent":
        bright = open_teacher_frames(
            train,
            videos,
            loaded.enhancer,
            enhancer_on=seen.enhancer_on,
            frame_size=rule.frame_size,
            colour_range=views.colour_range,
            cache=cache_policy(work_root(work), mode=compute.cache, cache_gb=compute.cache_gb),
            device=device,
        )
    # The teacher's views are those of a store, also where the student draws its own.
    drawn = DrawnViews(rule=rule, mode="fixed" if views.mode == "fixed" else "consistent", num_views=num_views)
    return LiveTeacher(loaded.recogniser, train, view_of=drawn, size=rule.size, bright=bright, device=device)

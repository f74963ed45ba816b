"""How much of a run's action is in single frames: the baseline's network trained with one frame of each view repeated.

python benchmarks/single_frame.py demo
"""

import dataclasses
import tempfile
from pathlib import Path

import click

from pipeline.clips.clip_index import class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batch, Batches, CentreViews, DrawnViews, ViewDataset, open_dark_frames
from pipeline.clips.frame_cache import cache_policy
from pipeline.clips.views import view_rule
from pipeline.config import STUDENT_ONLY, BaselineConfig, ComputeConfig, LogitsConfig, ViewsConfig, plain
from pipeline.distillation.losses import cross_entropy
from pipeline.params import read_inputs, read_section
from pipeline.training.classification import train_classifier
from pipeline.training.dark_training import build_dark
from pipeline.training.loop import top1
from pipeline.training.machine import set_up_machine
from pipeline.training.metrics import wilson_interval
from pipeline.training.work_folder import work_root


@dataclasses.dataclass(frozen=True)
class OneFrame:
    """Another choice of views with its middle frame in every place."""

    views: DrawnViews | CentreViews

    def __call__(self, clip, epoch):
        """Repeat the middle frame."""
        view = self.views(clip, epoch)
        middle = view.frame_indices[len(view.frame_indices) // 2]
        return dataclasses.replace(view, frame_indices=(middle,) * len(view.frame_indices))


@click.command()
@click.argument("run")
@click.option("--params", type=click.Path(path_type=Path), default=Path("params.yaml"))
def main(run, params):
    """Train on repeated frames and print the test top-1."""
    folder, videos = Path("data") / run, Path(read_inputs(params, run).videos)
    views, compute = read_section(params, ViewsConfig), read_section(params, ComputeConfig)
    config = plain(read_section(params, BaselineConfig, extra=STUDENT_ONLY))
    device = set_up_machine(compute.device, compute.threads)
    clips = read_clips(folder / "clips.csv")
    train, test, rule = of_subset(clips, "train"), of_subset(clips, "test"), view_rule(plain(views))
    model = build_dark(
        config, folder / "statistics.json", num_classes=len(class_names_in(clips)), num_frames=rule.frames
    )
    cache = cache_policy(work_root(folder / "any"), mode=compute.cache, cache_gb=compute.cache_gb)
    source = open_dark_frames(clips, videos, frame_size=rule.frame_size, colour_range=views.colour_range, cache=cache)
    drawn = DrawnViews(rule=rule, mode="consistent", num_views=read_section(params, LogitsConfig).views)

    def loss_of(logits, batch: Batch, epoch):
        return cross_entropy(logits, batch.labels)

    with tempfile.TemporaryDirectory() as work:
        trained = train_classifier(
            model.recogniser,
            train=train,
            holdout=[],
            source=source,
            rule=rule,
            view_of=OneFrame(drawn),
            check=None,
            loss_of=loss_of,
            settings=config,
            workers=compute.workers,
            device=device,
            work=Path(work),
            title="one frame",
        )
    model.recogniser.load_state_dict(trained.weights)
    seen = ViewDataset(test, source=source, view_of=OneFrame(CentreViews(rule=rule)), size=rule.size)
    share = top1(model.recogniser, Batches(seen, batch_size=16, seed=None, workers=0), device=device)
    low, high = wilson_interval(round(share * len(test)), len(test))
    click.echo(f"{run}: one frame repeated: top-1 {share:.3f} ({low:.3f} - {high:.3f}) on {len(test)} test clips")


if __name__ == "__main__":
    main()

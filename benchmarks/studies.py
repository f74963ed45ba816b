"""Repeats the studies of docs/results.md, from the videos to the saved files, with this project's own commands.

python benchmarks/studies.py recipe-rendered
python benchmarks/studies.py rendered-5
python benchmarks/studies.py egogest-5-1 egogest-5-2 egogest-5-3 --root FOLDER --controls
python benchmarks/studies.py arid-forward arid-back --root FOLDER
python benchmarks/studies.py --list

Each study works in `data/studies/NAME`, and goes on where it was stopped. What it found is saved in
`data/studies/saved`, or with `--into docs/results/studies` added to what this project has; of the same seeds it must
then be the same.
Trainings run in --jobs processes of one thread each, so that the figures do not depend on how many there are. One call
at a time in one --folder.
"""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from pipeline.commands.study import numbers_in

ROOT = Path(__file__).resolve().parents[1]
RUN = "night"
MAIN = ("baseline", "teacher", "student")
CONTROLS = ("dark-teacher", "dark-student", "smoothed", "shuffled")
EXPOSURES = (0, -2, -4, -5, -6, -8)
LONG = ("teacher.epochs=45", "student.epochs=45", "logits.views=45")
"""Chosen on `recipe-rendered` among 12, 20 and 30 epochs of 5 views, and 30 and 45 with a new view each epoch."""
PRETRAINED, LIT = "pretraining", "pretraining-lit"
SEEN_SCENES = (
    "its 20 test scenes, with other clips, were tested before at -5 EV by a recipe of 30 epochs and 5 views; 4 of them "
    "are the demo's"
)
"""What the test scenes of rendered studies, which are the same in all of them, were opened for before."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One study."""

    name: str
    title: str
    pool: str = ""
    preset: str = RUN
    settings: tuple[str, ...] = ()
    """SECTION.KEY=VALUE on top of what `dlkdd use` writes."""
    use: tuple[str, ...] = ()
    """Further options of `dlkdd use`."""
    exposure: float | None = None
    """Of the darkened videos; None leaves the data set's own."""
    lists: tuple[str, str] = ("", "")
    """Of training and test clips, below the root."""
    apart: str = ""
    """Scene of the training list that is tested instead of the test list."""
    scenes: str = ""
    """Table of scenes below the root."""
    subset: str = "test"
    seeds: str = "0-9"
    variants: tuple[str, ...] = MAIN
    recipes: int = 0
    """Settings that were compared on clips set aside, before."""
    note: str = ""
    """What else was seen of its test clips, or is to be known of the study."""
    pretrained: str = ""
    """Starts teacher, student and baseline from the baseline of this study."""


def rendered(exposure):
    """Rendered clips of 11 classes: 8 scenes to train, the demo's, and 20 others to test; no clip is the demo's."""
    return Plan(
        name=f"rendered-{-exposure}",
        title=f"rendered, {exposure} EV",
        preset="demo",
        settings=(
            f"render.exposure_ev={float(exposure)}",
            "render.seed=3000",
            "render.test_clips_per_class=40",
            "render.test_scenes=20",
            *LONG,
        ),
        recipes=5,
        note=SEEN_SCENES,
    )


GESTURES = ("--no-flip", "--model", "r2plus1d_tiny", "--size", "64")
"""Neither mirrored nor cut to a part of the gesture: left and right, up and down are classes."""
FIVE_VIEWS = "logits.views=5"
"""With the pretrained network one each epoch gave one answer of 74 more, on `recipe-egogest`."""
STILL_LESS = ("teacher.remove_temporal_mean=true", "student.remove_temporal_mean=true")
KINETICS = ("teacher.normalization=kinetics", "student.normalization=kinetics")
WEIGHTS = "{pretrained}"
"""Stands in a variant for the weights that its plan starts from, else those of the baseline of PRETRAINED."""
ONE_PRETRAINED = "one pretrained network for all trainings"
SEEN = (
    "; before, five recipes were tried on this split's test clips at -5 EV with one seed, and at -8 EV random weights "
    "trained for 40 epochs with four seeds"
)
"""What the first split of EgoGestAR was opened for before its study."""


def egogest(exposure, split, start=ONE_PRETRAINED):
    """Real gestures in shared scenes, darkened; the recipe was chosen on `recipe-egogest`, by the baseline.

    `start` says in the table's note what all trainings start from.
    """
    return Plan(
        name=f"egogest-{-exposure}-{split}",
        title=f"EgoGestAR, {exposure} EV, split {split}",
        note=start + (SEEN if split == 1 else ""),
        pool=f"EgoGestAR, {exposure} EV, all splits",
        exposure=exposure,
        use=GESTURES,
        settings=(FIVE_VIEWS, *STILL_LESS),
        lists=(f"split{split}_train.txt", f"split{split}_test.txt"),
        scenes="scenes.tsv",
        recipes=8,
        pretrained=PRETRAINED,
    )


def from_lit(exposure, split):
    """The same gestures in the paper's way: from a network that saw lit clips alone, with Kinetics' mean and std.

    The further baseline has the training set's own, for a fair comparison.
    """
    plan = egogest(exposure, split, f"{ONE_PRETRAINED}, on lit clips; Kinetics' mean and std")
    return dataclasses.replace(
        plan,
        name=f"lit-{plan.name}",
        title=f"EgoGestAR, {exposure} EV, from a lit network, split {split}",
        pool=f"EgoGestAR, {exposure} EV, from a lit network, all splits",
        settings=(FIVE_VIEWS, *KINETICS),
        variants=(*MAIN, "own-baseline baseline student.normalization=dataset"),
        recipes=0,
        pretrained=LIT,
    )


def pretraining(name, exposure, *settings):
    """Rendered clips in scenes of their own, for a network that others start from."""
    return Plan(
        name=name,
        title=f"rendered, {exposure} EV, 32 scenes",
        preset="demo",
        settings=(
            *(f"render.exposure_ev={float(exposure)}", "render.seed=2000", "render.train_scenes=32"),
            *("render.train_clips_per_class=64", "views.sampling=spread", *settings),
        ),
    )


def arid(name, train, test):
    """Real dark clips of few scenes: pretrained on rendered ones, and with each view's mean over time taken away."""
    return Plan(
        name=f"arid-{name}",
        title=f"6 classes of ARID, {Path(train).stem} to {Path(test).stem}",
        use=("--model", "r2plus1d_tiny", "--size", "64"),
        settings=(FIVE_VIEWS, *STILL_LESS),
        lists=(train, test),
        note=f"{ONE_PRETRAINED}; the settings are those of EgoGestAR, taken after all three were at chance on the "
        "validation clips with one seed and random weights",
        pretrained=PRETRAINED,
    )


PLANS = {
    plan.name: plan
    for plan in (
        Plan(
            name="recipe-rendered",
            title="rendered, -4 EV, 4 training scenes set aside",
            preset="demo",
            settings=(
                *("render.exposure_ev=-4.0", "render.seed=1000", "render.train_scenes=12"),
                *("render.train_clips_per_class=24", "render.test_clips_per_class=1", "prepare.holdout=4"),
            ),
            subset="holdout",
            seeds="0-2",
            variants=(
                "baseline",
                "short baseline student.epochs=12",
                "long baseline student.epochs=30",
                "fresh-30 baseline student.epochs=30 logits.views=30",
                "fresh-45 baseline student.epochs=45 logits.views=45",
                "teacher-30 teacher teacher.epochs=30",
                "teacher-45 teacher teacher.epochs=45",
            ),
        ),
        Plan(
            name="recipe-egogest",
            title="EgoGestAR, -6 EV, the scene that all splits train on set aside",
            exposure=-6,
            use=GESTURES,
            settings=(FIVE_VIEWS,),
            lists=("split1_train.txt", ""),
            apart="sc03",
            scenes="scenes.tsv",
            seeds="0-1",
            variants=(
                "baseline",
                "long baseline student.epochs=40",
                "lr1e-3 baseline student.lr=1e-3 student.epochs=40",
                "lr1e-3-short baseline student.lr=1e-3",
                "small-batch baseline student.batch_size=4",
                f"pretrained baseline student.weights={WEIGHTS}",
                f"pretrained-moving baseline student.weights={WEIGHTS} student.remove_temporal_mean=true",
                f"pretrained-moving-short baseline student.weights={WEIGHTS} student.remove_temporal_mean=true "
                "student.epochs=15",
            ),
        ),
        *map(rendered, EXPOSURES),
        *(egogest(exposure, split) for exposure in EXPOSURES for split in (1, 2, 3)),
        *(from_lit(exposure, split) for exposure in (-5, -8) for split in (1, 2, 3)),
        pretraining(PRETRAINED, -4, *STILL_LESS),
        pretraining(LIT, 0, *KINETICS),
        Plan(
            name="pretext",
            title="the order of frames, of benchmarks/reordered.py",
            use=GESTURES,
            settings=(FIVE_VIEWS, *STILL_LESS),
            lists=("train.txt", "test.txt"),
            seeds="0",
            variants=("baseline",),
        ),
        arid("forward", "train.txt", "validate.txt"),
        arid("back", "validate.txt", "train.txt"),
    )
}


OF_CLIPS = ("preset", "settings", "use", "exposure", "lists", "apart")
"""What of a plan its clips and trainings depend on; they stay where its words or variants change."""


def dlkdd(*arguments, cwd):
    """Run a subcommand there."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    if subprocess.run(command, cwd=cwd, env=environment, check=False).returncode:
        sys.exit(f"{cwd}: `dlkdd {' '.join(map(str, arguments[:3]))} ...` failed; see above")


def set_apart(plan, root, place):
    """Lists of the training clips of other scenes, and of those of the scene that is set apart."""
    with (root / plan.scenes).open(newline="", encoding="utf-8") as file:
        scenes = {row["path"]: row["scene"] for row in csv.DictReader(file, delimiter="\t")}
    lines = (root / plan.lists[0]).read_text(encoding="utf-8").splitlines()
    apart = [line for line in lines if scenes[line.split("\t")[2]] == plan.apart]
    paths = place / "train.txt", place / "apart.txt"
    for path, chosen in zip(paths, ([line for line in lines if line not in apart], apart), strict=True):
        path.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")
    return paths


def prepare(plan, place, root, settings):
    """Everything up to the enhancer, as `dvc repro enhancer` does it; returns the run's name."""
    run = "demo" if plan.preset == "demo" else RUN
    data = place / "data" / run
    data.mkdir(parents=True, exist_ok=True)
    made, of_clips = place / "made_for.json", {name: getattr(plan, name) for name in OF_CLIPS}
    told = json.dumps([of_clips, str(root), settings], indent=1)
    if made.is_file() and made.read_text(encoding="utf-8") != told:
        sys.exit(f"{place}: holds this study with other settings; remove it, or take another --folder")
    made.write_text(told, encoding="utf-8")
    if plan.preset == "demo":
        videos, lists = data / "rendered/videos", [data / f"rendered/{name}.txt" for name in ("train", "test")]
    else:
        videos, lists = root / "videos", [root / name for name in plan.lists]
        if plan.apart:
            lists = set_apart(plan, root, place)
        if plan.exposure is not None:
            videos = place.parent / f"darkened{plan.exposure:g}"
            dlkdd("darken", root / "videos", videos, "--ev", plan.exposure, cwd=place)
    words = [*plan.use]
    if plan.preset == RUN:
        words += ["--videos", videos, "--classes", root / "mapping_table.txt", "--train", lists[0], "--test", lists[1]]
    settings = [part for value in ("compute.threads=1", *plan.settings, *settings) for part in ("--set", value)]
    dlkdd("use", plan.preset, *words, *settings, "--force", cwd=place)
    if plan.preset == "demo" and not (data / "rendered").is_dir():
        dlkdd("render", "--out", data / "rendered", cwd=place)
    if not (data / "enhancer.safetensors").is_file():
        dlkdd(
            *("prepare", "--run", run, "--videos", videos, "--train", lists[0], "--test", lists[1]),
            *("--clips", data / "clips.csv", "--statistics", data / "statistics.json"),
            *("--quarantine", data / "quarantine.csv"),
            cwd=place,
        )
        dlkdd(
            *("enhancer", "--clips", data / "clips.csv", "--videos", videos),
            *("--checkpoint", data / "enhancer.safetensors", "--contact-sheet", data / "enhancer.png"),
            *("--figures", data / "enhancer.json"),
            cwd=place,
        )
    return run


def train(run, place, seeds, variants, jobs, subset):
    """Train the variants with the seeds, several at a time."""
    chosen = [part for variant in variants for part in ("--variant", variant)]
    numbers = ",".join(map(str, seeds))
    dlkdd("study", "run", run, *chosen, "--on", subset, "--seeds", numbers, "--jobs", jobs, cwd=place)


def pretrained(folder, name=PRETRAINED):
    """The weights of the baseline of a study, which is trained unless it is there."""
    place = (folder / name).resolve()
    place.mkdir(parents=True, exist_ok=True)
    run = prepare(PLANS[name], place, None, ())
    train(run, place, [0], ["baseline"], 1, "test")
    return place / "data" / run / "study/test/trained/baseline-0/baseline.safetensors"


@click.command()
@click.argument("names", nargs=-1)
@click.option("--list", "listed", is_flag=True, help="Print the names.")
@click.option("--root", type=click.Path(path_type=Path, exists=True), help="Folder of the data set: videos and lists.")
@click.option("--seeds", help="Such as 0-9. [of the study]")
@click.option("--controls", is_flag=True, help="Train the controls too.")
@click.option("--variant", "more", multiple=True, help="Further variants, as `dlkdd study run` takes them.")
@click.option("--only", is_flag=True, help="Train no other variants than those of --variant.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Trainings at once.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("data/studies"), show_default=True)
@click.option("--into", type=click.Path(path_type=Path), help="Save here. [FOLDER/saved/studies, or recipes]")
def main(names, listed, root, seeds, controls, more, only, jobs, folder, into):
    """Run the studies NAMES."""
    if listed:
        print(*PLANS, sep="\n")
        return
    if not names:
        raise click.UsageError("wanted the name of a study; --list prints them")
    if only and not (more or controls):
        raise click.UsageError("--only: wanted a --variant to train, or --controls")
    given = numbers_in(seeds) if seeds else None  # before clips are prepared for minutes
    for name in names:
        if name not in PLANS:
            raise click.UsageError(f"{name}: wanted one of {', '.join(PLANS)}")
        plan = PLANS[name]
        if plan.preset == RUN and root is None:
            raise click.UsageError(f"{name} needs --root, the folder of its data set")
        place = (folder / name).resolve()
        place.mkdir(parents=True, exist_ok=True)
        variants = [*(() if only else plan.variants), *(CONTROLS if controls else ()), *more]
        needed = plan.pretrained or any(WEIGHTS in variant for variant in variants)
        weights = pretrained(folder, plan.pretrained or PRETRAINED) if needed else None
        settings = (f"teacher.weights={weights}", f"student.weights={weights}") if plan.pretrained else ()
        run = prepare(plan, place, None if root is None else root.resolve(), settings)
        variants = [variant.replace(WEIGHTS, str(weights)) for variant in variants]
        train(run, place, given or numbers_in(plan.seeds), variants, jobs, plan.subset)
        words = ["--title", plan.title, "--pool", plan.pool, "--recipes", plan.recipes, "--on", plan.subset, "--add"]
        words += ["--note", plan.note]
        words += ["--scenes", root.resolve() / plan.scenes] if plan.scenes else []
        kind = "recipes" if name.startswith("recipe-") else "studies"
        saved = (into or folder / "saved" / kind).resolve()
        dlkdd("study", "save", run, saved / f"{name}.json", *words, cwd=place)
        dlkdd("table", "--studies", saved, cwd=ROOT)


if __name__ == "__main__":
    main()

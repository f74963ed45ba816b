"""Repeats the studies of docs/results.md, from the videos to the saved files, with this project's own commands.

python benchmarks/studies.py rendered-5 --seeds 0-9
python benchmarks/studies.py egogest-5-1 egogest-5-2 egogest-5-3 --root FOLDER --controls
python benchmarks/studies.py --list

Each study works in `data/studies/NAME`, and goes on where it was stopped. Trainings run in --jobs processes of one
thread each, so that the figures do not depend on how many there are.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
RUN = "night"
MAIN = ("baseline", "teacher", "student")
CONTROLS = ("dark-teacher", "dark-student", "smoothed", "shuffled")
EXPOSURES = (0, -2, -4, -5, -6, -8)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One study."""

    name: str
    title: str
    pool: str = ""
    exposure: float
    settings: tuple[str, ...]
    """SECTION.KEY=VALUE on top of what `dlkdd use` writes."""
    use: tuple[str, ...]
    """Further options of `dlkdd use`; {root} is the data set's folder, {dark} that of the darkened videos."""
    preset: str = RUN
    scenes: str = ""
    """Table of scenes below the root."""


def rendered(exposure):
    """Rendered clips of 11 classes: 8 scenes to train, 20 others to test."""
    return Plan(
        name=f"rendered-{-exposure}",
        title=f"rendered, {exposure} EV",
        exposure=exposure,
        preset="demo",
        use=(),
        settings=(f"render.exposure_ev={float(exposure)}", "render.test_clips_per_class=40"),
    )


def egogest(exposure, split):
    """Real gestures in shared scenes, darkened; neither mirrored nor cut to a part of the gesture."""
    return Plan(
        name=f"egogest-{-exposure}-{split}",
        title=f"EgoGestAR, {exposure} EV, split {split}",
        pool=f"EgoGestAR, {exposure} EV, all splits",
        exposure=exposure,
        use=(
            *("--videos", "{dark}", "--classes", "{root}/mapping_table.txt", "--no-flip"),
            *("--train", f"{{root}}/split{split}_train.txt", "--test", f"{{root}}/split{split}_test.txt"),
            *("--model", "r2plus1d_tiny", "--size", "64"),
        ),
        settings=(),
        scenes="scenes.tsv",
    )


PLANS = {
    plan.name: plan
    for plan in (
        *map(rendered, EXPOSURES),
        *(egogest(exposure, split) for exposure in EXPOSURES for split in (1, 2, 3)),
    )
}


def dlkdd(*arguments, cwd):
    """Run a subcommand there."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "pipeline", *map(str, arguments)], cwd=cwd, env=environment, check=True)


def prepare(plan, folder, root):
    """Everything up to the enhancer, as `dvc repro enhancer` does it; returns the run's name."""
    run = "demo" if plan.preset == "demo" else RUN
    data = folder / "data" / run
    data.mkdir(parents=True, exist_ok=True)
    dark = folder.parent / f"darkened{plan.exposure:g}"
    if plan.preset == RUN:
        dlkdd("darken", root / "videos", dark, "--ev", plan.exposure, cwd=folder)
    words = [word.format(root=root, dark=dark) for word in plan.use]
    settings = [part for value in ("compute.threads=1", *plan.settings) for part in ("--set", value)]
    dlkdd("use", plan.preset, *words, *settings, "--force", cwd=folder)
    if plan.preset == "demo":
        dlkdd("render", "--out", data / "rendered", cwd=folder)
        videos, lists = data / "rendered/videos", [data / f"rendered/{name}.txt" for name in ("train", "test")]
    else:
        videos, lists = dark, [words[words.index(option) + 1] for option in ("--train", "--test")]
    if not (data / "enhancer.safetensors").is_file():
        dlkdd(
            *("prepare", "--run", run, "--videos", videos, "--train", lists[0], "--test", lists[1]),
            *("--clips", data / "clips.csv", "--statistics", data / "statistics.json"),
            *("--quarantine", data / "quarantine.csv"),
            cwd=folder,
        )
        dlkdd(
            *("enhancer", "--clips", data / "clips.csv", "--videos", videos),
            *("--checkpoint", data / "enhancer.safetensors", "--contact-sheet", data / "enhancer.png"),
            *("--figures", data / "enhancer.json"),
            cwd=folder,
        )
    return run


def train(run, folder, seeds, variants, jobs):
    """Share the seeds out to so many processes, and wait for all."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    chosen = [part for variant in variants for part in ("--variant", variant)]
    shares = [",".join(map(str, seeds[job::jobs])) for job in range(min(jobs, len(seeds)))]
    command = [sys.executable, "-m", "pipeline", "study", "run", run, *chosen, "--seeds"]
    started = [subprocess.Popen([*command, share], cwd=folder, env=environment) for share in shares]
    if any([process.wait() for process in started]):  # noqa: C419 (waits for all of them)
        sys.exit(f"{folder}: a training failed; see above")


def numbers(text):
    """`0-9` as numbers."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


@click.command()
@click.argument("names", nargs=-1)
@click.option("--list", "listed", is_flag=True, help="Print the names.")
@click.option("--root", type=click.Path(path_type=Path, exists=True), help="Folder of the data set: videos and lists.")
@click.option("--seeds", default="0-9", show_default=True, help="Such as 0-9.")
@click.option("--controls", is_flag=True, help="Train the controls too.")
@click.option("--variant", "more", multiple=True, help="Further variants, as `dlkdd study run` takes them.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Trainings at once.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("data/studies"), show_default=True)
@click.option("--into", type=click.Path(path_type=Path), help="Save the studies here. [FOLDER/saved]")
def main(names, listed, root, seeds, controls, more, jobs, folder, into):
    """Run the studies NAMES."""
    if listed:
        print(*PLANS, sep="\n")
        return
    into = (into or folder / "saved").resolve()
    for name in names:
        if name not in PLANS:
            raise click.UsageError(f"{name}: wanted one of {', '.join(PLANS)}")
        plan = PLANS[name]
        if plan.preset == RUN and root is None:
            raise click.UsageError(f"{name} needs --root, the folder of its data set")
        place = (folder / name).resolve()
        place.mkdir(parents=True, exist_ok=True)
        run = prepare(plan, place, None if root is None else root.resolve())
        train(run, place, numbers(seeds), [*MAIN, *(CONTROLS if controls else ()), *more], jobs)
        scenes = ["--scenes", root.resolve() / plan.scenes] if plan.scenes else []
        dlkdd(
            "study", "save", run, into / f"{name}.json", "--title", plan.title, "--pool", plan.pool, *scenes, cwd=place
        )
    if names:
        dlkdd("table", "--studies", into, cwd=ROOT)


if __name__ == "__main__":
    main()

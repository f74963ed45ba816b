"""`dlkdd use`: choose all parameters of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline import config as sections
from pipeline import datasets, presets
from pipeline.commands.options import FOLDER, PATH, params_option

# Presets, and the options that say where their clips lie.
PRESETS = {
    "demo": (),
    "arid": ("videos", "lists", "tag"),
    "arid15": ("videos", "train", "test", "classes", "split", "tag"),
    "ug2": ("videos", "lists"),
    "dark48": ("videos", "lists", "tag"),
}


@click.command()
@click.argument(
    "name", shell_complete=lambda context, parameter, typed: [name for name in PRESETS if name.startswith(typed)]
)
@click.option("--videos", type=FOLDER, help="Root that the lists' paths are relative to.")
@click.option("--lists", type=FOLDER, help="Folder of the published lists, for arid, ug2 and dark48.")
@click.option("--tag", help="Goes into the names of a preset's runs: arid-TAG-1; for comparisons in one table.")
@click.option("--split", type=int, help="Number of the split that the lists are, for arid15. [1]")
@click.option("--train", type=PATH, help="List, or folder of class folders, of the training clips.")
@click.option("--test", type=PATH, help="The same of the test clips.")
@click.option("--classes", type=PATH, help="Table of class ids and names, where the lists hold ids.")
@click.option("--folder", type=FOLDER, help="Folder of class folders, perhaps below train/ and test/.")
@click.option("--model", type=click.Choice(sections.MODELS), help="Backbone of teacher and student. [r2plus1d_34]")
@click.option("--head", type=click.Choice(["attention", "average"]), help="What follows the backbone.")
@click.option("--frames", type=int, help="Frames a view.")
@click.option("--sampling", type=click.Choice(["consecutive", "spread"]), help="How a view takes them.")
@click.option("--size", type=int, help="Side of the view in pixels.")
@click.option(
    "--protocol",
    type=click.Choice(sorted(presets.PROTOCOLS)),
    help="How training crops are taken. [darklight; r2plus1d_tiny: one scale, anywhere]",
)
@click.option("--flip/--no-flip", default=None, help="Mirror half of the training views.")
@click.option("--links/--no-links", default=None, help="Follow links below the videos' root, or refuse them.")
@click.option(
    "--epochs", type=int, help="Epochs of teacher and student; as many views are stored, unless --views says otherwise."
)
@click.option("--batch-size", type=int, help="Clips a step, of teacher and student.")
@click.option("--views", type=int, help="Views of every clip in the logit store. [as many as epochs; demo: 5]")
@click.option("--seed", type=int, help="Seed of views, order and weights.")
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Set any other value.")
@click.option("--force", is_flag=True, help="Replace an edited params.yaml.")
@params_option
def use(name: str, params: Path, force: bool, assignments: tuple[str, ...], **options: Any) -> None:
    """Write params.yaml: NAME is `demo`, `arid`, `arid15`, `ug2`, `dark48`, or what you call your own clips.

    \b
    Examples:
      dlkdd use demo
      dlkdd use arid --videos ROOT --lists FOLDER
      dlkdd use arid15 --videos ROOT --train LIST --test LIST
      dlkdd use arid --videos ROOT --lists FOLDER --tag darklight --set teacher.input=both
      dlkdd use night --train LIST --test LIST --classes TABLE --videos ROOT
      dlkdd use night --folder ROOT --model r2plus1d_tiny --size 64
    """  # noqa: D301
    values = _chosen_preset(name, options)
    if options["size"] is not None:
        values = presets.set_size(values, options["size"])
    if options["protocol"] is not None:
        values = presets.set_protocol(values, options["protocol"])
    both = [f"{section}.{{}}" for section in ("teacher", "student")]
    targets = {"head": both, "epochs": both, "batch-size": both, "frames": ["views.{}"], "sampling": ["views.{}"]}
    targets |= {"links": ["prepare.{}"], "flip": ["views.{}"], "views": ["logits.{}"], "seed": ["views.{}", *both]}
    changes = [
        f"{place.format(key.replace('-', '_'))}={str(value).lower()}"
        for key, places in targets.items()
        if (value := options[key.replace("-", "_")]) is not None
        for place in places
    ]
    each = values["logits"]["views"] == values["student"]["epochs"]
    values = presets.override(values, [*changes, *assignments])
    chosen = {change.partition("=")[0] for change in (*changes, *assignments)}
    values = presets.settle(values, chosen, view_each_epoch=each)
    presets.write_params(params, values, name=name, force=force)
    for section in ("enhancer", "teacher", "student"):
        weights = values[section]["weights"]
        if weights is not None and not Path(weights).is_file():
            click.echo(f"warning: {section}.weights: {weights}: no such file here, and {section} needs it", err=True)
    click.echo(f"{params}: runs {', '.join(values['runs'])}; now `dvc repro`")


def _chosen_preset(name: str, options: dict[str, Any]) -> presets.Params:
    """The preset of that name, with the options that it takes and no others."""
    own = ("videos", "train", "test", "classes", "folder", "model")
    takes = PRESETS.get(name, own)
    for key in {*own, "lists", "tag", "split"}:
        if options[key] is not None and key not in takes:
            raise click.UsageError(f"--{key} does not go with `dlkdd use {name}`; use --set for single values")
    if name == "demo":
        return presets.demo()
    if options["folder"] is not None:
        return datasets.own_folder(name, options["folder"], model=options["model"] or "r2plus1d_34")
    needed = [key for key in ("videos", "lists", "train", "test") if key in takes]
    missing = [f"--{key}" for key in needed if options[key] is None]
    if missing:
        hint = "" if name in PRESETS else "; give lists and --videos, or --folder"
        raise click.UsageError(f"{name}: {', '.join(missing)} missing{hint}")
    given = {key: options[key] for key in takes if options[key] is not None}
    if name in PRESETS:
        build: dict[str, Callable[..., presets.Params]] = {
            "arid": datasets.arid,
            "arid15": datasets.arid15,
            "ug2": datasets.ug2,
            "dark48": datasets.dark48,
        }
        return build[name](**given)
    return datasets.own(name, **({"classes": None, "model": "r2plus1d_34"} | given))

"""Options that several subcommands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.config import ComputeConfig
from pipeline.params import read_params, read_section

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)


def run_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For a shell's completion: runs of params.yaml that begin so; none where it cannot be read."""
    try:
        runs = read_params(context.params.get("params") or Path("params.yaml"))["runs"]
    except (ValueError, OSError):
        # A shell shows nothing but names while a command is typed; the command itself will say what is wrong.
        return []
    return [str(run) for run in runs if str(run).startswith(incomplete)]


def params_option(command: Command) -> Command:
    """Add --params."""
    default = Path("params.yaml")
    return click.option("--params", type=PATH, default=default, show_default=True, help="Parameters' file.")(command)


def stage_options(command: Command) -> Command:
    """Add what every stage takes."""
    fresh = click.option("--fresh", is_flag=True, help="Start anew instead of from what an earlier run finished.")
    return params_option(fresh(command))


def device_options(command: Command) -> Command:
    """Add --device and --threads, for commands that read no params.yaml."""
    device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
    threads = click.option("--threads", type=int, default=2, show_default=True, help="CPU threads of torch.")
    return device(threads(command))


def required_path(name: str, text: str) -> Callable[[Command], Command]:
    """A required option that names a file or folder."""
    return click.option(name, type=PATH, required=True, help=text)


clips_option = required_path("--clips", "clips.csv of the run.")
videos_option = required_path("--videos", "Root that clip ids are relative to.")
checkpoint_option = required_path("--checkpoint", "Checkpoint to write.")
curve_option = required_path("--curve", "Learning curve to write, csv.")
timings_option = required_path("--timings", "Seconds and memory to write, json.")
statistics_option = required_path("--statistics", "Figures of the dark training frames, from prepare.")


def machine(params: Path) -> dict[str, Any]:
    """The section `compute` as its config and as the device; also sets torch's threads."""
    from pipeline.training.machine import set_up_machine

    compute = read_section(params, ComputeConfig)
    device = set_up_machine(compute.device, compute.threads, deterministic=compute.deterministic)
    return {"compute": compute, "device": device}


def in_several_processes(device: Any, *, micro_batches: int | None = None) -> bool:
    """Run this subcommand in $DLKDD_PROCESSES processes and wait for them; False where this one has to do the work.

    Args:
        device: what `machine` chose.
        micro_batches: parts of a batch, of which each process takes as many; None where no batch is shared.

    Raises:
        ValueError: no such number of processes can share the work.
        ChildProcessError: one of them failed.
    """
    # Imported here, so that help texts need no torch.
    from pipeline.training.distributed import launch, processes_to_start

    processes = processes_to_start()
    if processes == 1:
        return False
    context = click.get_current_context()
    name = context.info_name or ""
    if micro_batches is not None:
        from pipeline.training.parts import check_parts

        check_parts(name, micro_batches=micro_batches, processes=processes)
    launch([name, *_as_given(context)], processes=processes, device=device)
    return True


def _as_given(context: click.Context) -> list[str]:
    """The options of the running subcommand, as they would be typed."""
    options: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(value, bool):
            options += [parameter.opts[0]] * value
        elif value is not None:
            options += [parameter.opts[0], str(value)]
    return options

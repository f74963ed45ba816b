"""Write the ratios of all benchmarks into a document, between two marks, and beside it as JSON.

python benchmarks/table.py benchmarks/results --into docs/speed.md
"""

import json
from pathlib import Path

import click

from pipeline.clips.files import replacing

MARKS = ("<!-- speed -->", "<!-- end speed -->")
SHOWN = ("reading", "inference", "training", "store")


def table(reports):
    """Markdown: the machine, then a row a ratio.

    Args:
        reports: what each benchmark wrote, by its name.
    """
    machine = next(iter(reports.values()))["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}",
        f"({versions}).",
        "",
        "| benchmark | ratio | 95 % interval | rounds | wanted |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, report in reports.items():
        for each in report["ratios"]:
            interval = f"{each['low']:.2f} - {each['high']:.2f}"
            wanted, kind = each["wanted"] or "-", name.partition("-")[0]
            lines.append(f"| {kind}: {each['name']} | {each['ratio']:.2f} | {interval} | {each['rounds']} | {wanted} |")
    return "\n".join(lines)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--into", "document", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(folder, document):
    """Replace what stands between the marks of a document by the table of those reports that FOLDER holds."""
    # A benchmark that was run in pieces has a file for each: training.json, training-memory.json.
    found = {path.stem: path for name in SHOWN for path in sorted(folder.glob(f"{name}*.json"))}
    if not found:
        raise click.ClickException(f"{folder}: found none of {', '.join(SHOWN)}.json; run `make bench` first")
    reports = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items()}
    text = document.read_text(encoding="utf-8")
    before, opened, rest = text.partition(MARKS[0])
    _, closed, after = rest.partition(MARKS[1])
    if not (opened and closed):
        raise click.ClickException(f"{document}: found no pair of marks, wanted {' ... '.join(MARKS)}; put them there")
    with replacing(document) as partial:
        partial.write_text(f"{before}{MARKS[0]}\n{table(reports)}\n{MARKS[1]}{after}", encoding="utf-8")
    with replacing(document.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Refuses too few tested branches: python tests/branches.py coverage.json [--least 90]

The file is that of `pytest --cov --cov-report=json:coverage.json`. What tests start as programs of their own is not in
it. `--cov-fail-under` of pytest-cov mixes branches with lines, of which more are tested.
"""

import json
import sys
from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--least", default=90.0, show_default=True, help="Percent of the branches.")
def main(file, least):
    """Print the share of branches in FILE that were taken, and exit with 1 where it is too small."""
    found = json.loads(file.read_text(encoding="utf-8"))
    totals = found["totals"]
    if not totals["num_branches"]:
        sys.exit(f"{file}: found no branches, wanted those of `pytest --cov` with branch = True in setup.cfg")
    share = 100 * totals["covered_branches"] / totals["num_branches"]
    print(f"{totals['covered_branches']} of {totals['num_branches']} branches, {share:.1f} %; wanted {least:g} %")
    if share < least:
        left = {name: module["summary"]["missing_branches"] for name, module in found["files"].items()}
        for name in sorted(left, key=lambda name: -left[name])[:10]:
            print(f"{name}: {left[name]} not taken")
        sys.exit(1)


if __name__ == "__main__":
    main()

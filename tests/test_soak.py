"""Short loops of the soak, and that it finds a product that was broken on purpose."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from kill_points import CALLS, SIDES

TESTS = Path(__file__).parent
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not (TESTS.parent / ".git").exists(),
    reason="finds processes through Linux' /proc, and clones the project with git",
)
STOP_AT_THE_FIRST_PROBLEM = """
import pathlib, sys, soak, soak_logits, test_soak
soak_logits.MOST_PROBLEMS = 1
folder, undisturbed = map(pathlib.Path, sys.argv[2:])
options = {"repository": undisturbed, "undisturbed": undisturbed, "sabotage": getattr(test_soak, sys.argv[1])}
sys.exit(soak.soak_logits(100, folder=folder, seed=0, **options))
"""


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def twelve_kills(tmp_path_factory):
    """What a short soak of the stage `logits` said, and the clone of its undisturbed run."""
    folder = tmp_path_factory.mktemp("soak") / "clones"
    ran = run(TESTS / "soak.py", "logits", "--kills", 12, "--processes", 0, "--pairs", 0, "--folder", folder)
    return ran, folder / "undisturbed"


@pytest.mark.slow
def test_a_stage_killed_at_every_kind_of_point_ends_in_the_bytes_of_an_undisturbed_one(twelve_kills):
    ran, _ = twelve_kills
    assert ran.returncode == 0, ran.stdout
    last = ran.stdout.splitlines()[-1]
    assert last.endswith("all equal")
    assert int(re.match(r"logits: (\d+) kills", last)[1]) >= 12
    for kind, side in product(CALLS, SIDES):
        assert int(re.search(rf"{kind} {side} (\d+)", last)[1]) >= 1, last


def write_straight():
    """Break the stage: it writes under the final name, where a kill leaves half a file."""
    from stages import logits

    publish = logits.publish

    def straight(target, spec, shards, *, minimum_top1):
        whole = target.parent / ".work" / "whole.h5"
        summary = publish(whole, spec, shards, minimum_top1=minimum_top1)
        content = whole.read_bytes()
        with target.open("wb") as file:
            for start in range(0, len(content), 10_000):
                file.write(content[start : start + 10_000])
                file.flush()
                os.fsync(file.fileno())
        return summary

    logits.publish = straight


class Late:
    """A column of a shard that keeps back in a list what is written to it."""

    def __init__(self, column, kept):
        self.column, self.kept = column, kept

    def __len__(self):
        return len(self.column)

    def __setitem__(self, rows, values):
        self.kept.append((rows, values))

    def __getattr__(self, name):
        return getattr(self.column, name)

    def resize(self, *args, **kwargs):
        self.column.resize(*args, **kwargs)


def flag_before_rows():
    """Break the shards: a block is flushed as done while its logits come with the next block only."""
    from pipeline.distillation.logit_store_shards import ShardWriter

    write, close, kept = ShardWriter.write, ShardWriter.close, []

    def write_kept(writer):
        while kept:
            rows, values = kept.pop()
            writer._shard.columns["logits"][rows] = values

    def flag_first(self, number, block):
        write_kept(self)
        columns = self._shard.columns
        self._shard.columns = columns | {"logits": Late(columns["logits"], kept)}
        write(self, number, block)
        self._shard.columns = columns

    def close_whole(self):
        write_kept(self)
        close(self)

    ShardWriter.write, ShardWriter.close = flag_first, close_whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "words"),
    [
        (write_straight, "half-written under its final name"),
        (flag_before_rows, "started again it failed with exit code 1"),
    ],
)
def test_a_broken_stage_is_found(twelve_kills, tmp_path, sabotage, words):
    _, undisturbed = twelve_kills
    ran = run("-c", STOP_AT_THE_FIRST_PROBLEM, sabotage.__name__, tmp_path / "clones", undisturbed)
    assert ran.returncode == 1, ran.stdout
    last = ran.stdout.splitlines()[-1]
    assert "1 PROBLEMS" in last, ran.stdout
    assert words in last


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (BIN / "dvc").exists() or not (BIN / "dlkdd").exists(), reason="needs dvc and dlkdd")
def test_a_killed_repro_ends_in_the_bytes_of_an_undisturbed_one():
    ran = run(TESTS / "soak.py", "repro", "--kills", 3, "--upto", "enhancer")
    assert ran.returncode == 0, ran.stdout
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("repro: 3 kills (render 1, prepare 1, enhancer 1;")
    assert last.endswith("all equal")

"""What a study says of the trainings that are left."""

import json

import pytest

from pipeline.studies.progress import progress_of


@pytest.fixture
def records(tmp_path):
    return [tmp_path / f"{seed}.json" for seed in range(8)]


def keep(records, *seconds):
    for record, took in zip(records, seconds, strict=False):
        record.write_text(json.dumps({"seconds": took}))


@pytest.mark.parametrize(
    ("seconds", "jobs", "told"),
    [
        ((), 1, "0 of 8"),
        ((60, 60, 60), 1, "3 of 8, about 5 min left"),
        ((60, 60, 61), 1, "3 of 8, about 6 min left"),
        ((50, 70, 60), 2, "3 of 8, about 3 min left"),
        ((50, 70, 60), 9, "3 of 8, about 1 min left"),
        ((1500,) * 4, 1, "4 of 8, about 1 h 40 min left"),
        ((60,) * 8, 1, "8 of 8"),
    ],
)
def test_those_left_take_as_long_as_those_kept_and_jobs_share_them(records, seconds, jobs, told):
    keep(records, *seconds)
    assert progress_of(records, jobs=jobs).told() == told


def test_a_training_that_is_wanted_twice_counts_once(records):
    keep(records, 60)
    assert progress_of(records[:2] * 2).told() == "1 of 2, about 1 min left"


def test_damage_is_told_of(records):
    records[0].write_text("{}")
    with pytest.raises(ValueError, match=r"0\.json: .*seconds.*; remove it to train again"):
        progress_of(records).told()

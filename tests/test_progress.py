"""What a study says of the trainings that are left."""

import pytest

from pipeline.studies.progress import begun


@pytest.fixture
def records(tmp_path):
    return [tmp_path / f"{seed}.json" for seed in range(8)]


@pytest.mark.parametrize(
    ("kept", "seconds", "told"),
    [
        (1, 60.0, "3 of 8, about 5 min left"),
        (1, 61.0, "3 of 8, about 6 min left"),
        (2, 3000.0, "4 of 8, about 1 h 40 min left"),
        (1, 0.4, "3 of 8, about 1 min left"),
        (6, 600.0, "8 of 8"),
    ],
)
def test_the_time_left_follows_the_trainings_of_this_call_alone(records, kept, seconds, told):
    for record in records[:2]:
        record.touch()
    progress = begun(records, 1000.0)
    for record in records[2 : 2 + kept]:
        record.touch()
    assert progress.told(1000.0 + seconds) == told


def test_records_that_vanish_in_between_stop_nothing(records):
    records[0].touch()
    progress = begun(records, 0.0)
    records[0].unlink()
    assert progress.told(10.0) == "0 of 8, about 2 min left"

"""How a study is cut into what can be trained at once."""

import pytest

from pipeline import presets
from pipeline.studies.chains import chains_of
from pipeline.studies.variants import variant_of

MORE = {
    "squared": "squared student student.scale_by_temperature_squared=true",
    "own-baseline": "own-baseline baseline student.normalization=dataset",
    "long": "long teacher teacher.epochs=9",
    "gamma": "gamma teacher enhancer.name=gamma",
    "gamma-long": "gamma-long student enhancer.name=gamma teacher.epochs=9",
    "other-gamma": "other-gamma student enhancer.name=gamma enhancer.gamma=2.5",
    "view": "view teacher enhancer.on=view",
    "views": "views student logits.views=2",
}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("baseline", "teacher", "student"), ["teacher and student", "baseline"]),
        (("baseline", "own-baseline"), ["baseline", "own-baseline"]),
        (("student", "smoothed", "squared", "views"), ["student and smoothed and squared and views"]),
        (("dark-teacher", "teacher", "dark-student"), ["dark-teacher and dark-student", "teacher"]),
        (("teacher", "long", "view"), ["teacher", "long", "view"]),
        # Teachers of their own, which share the enhancer that they make.
        (("student", "gamma", "gamma-long", "other-gamma"), ["gamma and gamma-long", "student", "other-gamma"]),
    ],
)  # fmt: skip
def test_what_makes_files_for_each_other_stays_together(names, wanted):
    variants = [variant_of(MORE.get(name, name)) for name in names]
    chains = chains_of(presets.demo(), variants, [3, 1])
    assert [str(chain) for chain in chains] == [f"seed {seed}, {chain}" for seed in (3, 1) for chain in wanted]

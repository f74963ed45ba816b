"""Which trainings a study compares: the three of the paper's claim, the controls of it, and any more."""

import copy
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import SECTION_TYPES, STUDENT_ONLY, BaselineConfig
from pipeline.params import parse
from pipeline.presets import override

STAGES = ("baseline", "teacher", "student")
RESERVED = "trained"
"""Where a study keeps checkpoints, beside the variants' answers."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train."""

    name: str
    stage: str
    """baseline, teacher or student: whose test is measured. A student's teacher is trained with the same changes."""
    changes: tuple[str, ...] = ()
    """SECTION.KEY=VALUE, on top of params.yaml."""


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(name="baseline", stage="baseline"),
        Variant(name="teacher", stage="teacher"),
        Variant(name="student", stage="student"),
        Variant(name="dark-teacher", stage="teacher", changes=("teacher.input=dark",)),
        Variant(name="dark-student", stage="student", changes=("teacher.input=dark",)),
        Variant(name="smoothed", stage="student", changes=("student.soft_targets=smoothed",)),
        Variant(name="shuffled", stage="student", changes=("student.soft_targets=shuffled",)),
    )
}
"""The paper's Table 4, and its controls: distillation without light, and without what the teacher saw of the clip."""


def variant_of(text: str) -> Variant:
    """A variant by its name, or a new one written as `NAME STAGE SECTION.KEY=VALUE ...`.

    Raises:
        ValueError: no such variant or stage, or a name that is no plain word.
    """
    name, *more = shlex.split(text) or [""]
    if not more:
        if name not in VARIANTS:
            raise ValueError(
                f"variant {text!r}: wanted one of {', '.join(VARIANTS)}, or 'NAME STAGE SECTION.KEY=VALUE ...'"
            )
        return VARIANTS[name]
    stage, *changes = more
    if stage not in STAGES:
        raise ValueError(f"variant {text!r}: found the stage {stage!r}, wanted one of {', '.join(STAGES)}")
    if name in VARIANTS or name == RESERVED or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"variant {text!r}: wanted a new name of letters, digits, - and _")
    return Variant(name=name, stage=stage, changes=tuple(changes))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The sections of params.yaml that one training takes, as values and as configs."""

    values: Mapping[str, Any]
    configs: Mapping[str, Any]

    def of(self, *sections: str) -> dict[str, Any]:
        """The values of some sections, for keys and records."""
        return {section: self.values[section] for section in sections}


def settings_for(params: Mapping[str, Any], changes: Sequence[str], *, seed: int) -> Settings:
    """The sections with a variant's changes, where everything that is drawn in training follows one seed.

    Raises:
        ValueError: a change of no key, or values out of their range.
    """
    values = override(copy.deepcopy({section: params[section] for section in SECTION_TYPES}), changes)
    for section in ("views", "teacher", "student"):
        values[section]["seed"] = seed
    configs = {name: parse(kind, values[name], where=name) for name, kind in SECTION_TYPES.items()}
    configs["baseline"] = parse(BaselineConfig, values["student"], where="student", extra=STUDENT_ONLY)
    return Settings(values=values, configs=configs)

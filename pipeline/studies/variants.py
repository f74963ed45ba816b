"""Which trainings a study compares: the three of the paper's claim, the controls of it, and any more."""

import copy
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import SECTION_TYPES, STUDENT_ONLY, BaselineConfig
from pipeline.params import parse
from pipeline.presets import check_together, override

STAGES = {
    "baseline": ("views", "logits", "student"),
    "teacher": ("views", "enhancer", "teacher"),
    "student": ("views", "enhancer", "teacher", "logits", "student"),
}
"""Whose test a study measures, and the sections of params.yaml that its training takes."""
MEASURED = ("compute.precision", "evaluate.clips", "evaluate.crops", "evaluate.average")
"""What else a training's answers depend on."""
SEEDED = ("views", "teacher", "student")
"""Sections whose seed a study sets."""
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

    def __post_init__(self) -> None:
        for change in self.changes:
            path = change.partition("=")[0]
            section, _, key = path.partition(".")
            if path in MEASURED or section not in SECTION_TYPES:
                continue
            if section in SEEDED and key == "seed":
                raise ValueError(f"variant {self.name}: {path} is set by the study's seeds; leave it out")
            if section not in STAGES[self.stage] or (self.stage == "baseline" and key in STUDENT_ONLY):
                raise ValueError(f"variant {self.name}: {path} has no effect on a {self.stage} here; leave it out")


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
        ValueError: no such variant or stage, a name that is no plain word, or a change that changes nothing.
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
        ValueError: a change of no key, values out of their range, sections that do not go together, or a change of the
            enhancer for a teacher of dark frames.
    """
    values = override(copy.deepcopy({section: params[section] for section in SECTION_TYPES}), changes)
    lit = next((change for change in changes if change.startswith("enhancer.")), None)
    if lit is not None and values["teacher"]["input"] == "dark":
        raise ValueError(f"{lit}: has no effect where teacher.input is dark; leave it out")
    for section in SEEDED:
        values[section]["seed"] = seed
    check_together(values)
    configs = {name: parse(kind, values[name], where=name) for name, kind in SECTION_TYPES.items()}
    configs["baseline"] = parse(BaselineConfig, values["student"], where="student", extra=STUDENT_ONLY)
    return Settings(values=values, configs=configs)

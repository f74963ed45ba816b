"""A study's answers as one small file, which tables are printed from and which can be kept with the code."""

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.files import replacing
from pipeline.mapping_file import read_json

REMEDY = "save the study again"
SINCE = {"class_names": (), "labels": ()}
"""What files of earlier versions lack."""
UNKNOWN = "clip:"
"""Begins the group of a clip whose scene is unknown."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a study cannot tell of itself."""

    title: str
    """What the row of a table is called."""
    note: str
    """Printed below the table; may be empty."""
    pool: str
    """What the row is called that the study shares with others, such as splits of one data set; empty for none."""
    recipes: int
    """Settings that were tried on clips set aside, before."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What was found of one variant."""

    stage: str
    """baseline, teacher or student."""
    changes: tuple[str, ...]
    """SECTION.KEY=VALUE, on top of the study's settings; of a file of weights the name alone."""
    seconds: float
    """Of all seeds together, with reading and testing."""
    hits: Mapping[str, str]
    """By seed: 1 for each clip that was answered rightly, else 0, in the order of the clips."""


@dataclass(frozen=True, kw_only=True)
class Saved(Words):
    """A study of one run."""

    subset: str
    """test or holdout."""
    classes: int
    train_clips: int
    clips_sha256: str
    """Of the ids, labels and subsets of the training clips and of those that are measured."""
    mean_luma: float
    """Of the clips that are measured, as coded, 0 to 255: tells apart the same clips at two exposures."""
    groups: tuple[str, ...]
    """Scene of each clip; `clip:` and a hash of the clip's id where the scene is unknown."""
    commit: str
    """Of the code that trained; several are separated by semicolons."""
    hardware: str
    """That trained; several are separated by semicolons."""
    settings: Mapping[str, Any]
    """Sections of params.yaml."""
    variants: Mapping[str, Trained]
    class_names: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    """Of each clip, its class's position among the names; both are empty in files of earlier versions."""

    def words(self) -> Words:
        """What the study could not tell of itself."""
        return Words(title=self.title, note=self.note, pool=self.pool, recipes=self.recipes)

    def seeds(self, *variants: str) -> list[str]:
        """Seeds that all these variants were trained with."""
        kept = [self.variants[name].hits if name in self.variants else {} for name in variants]
        return sorted(set.intersection(*map(set, kept)), key=int)

    def of_class(self, label: int) -> "Saved":
        """What was found of the clips of one class."""
        chosen = [place for place, found in enumerate(self.labels) if found == label]
        variants = {
            name: replace(
                trained, hits={seed: "".join(hits[place] for place in chosen) for seed, hits in trained.hits.items()}
            )
            for name, trained in self.variants.items()
        }
        groups = tuple(self.groups[place] for place in chosen)
        return replace(self, groups=groups, labels=(label,) * len(chosen), variants=variants)

    def hits(self, variant: str, seeds: Sequence[str]) -> NDArray[np.float64]:
        """(S, N) of these seeds and all clips: 1 where the answer was right."""
        return np.array([[int(hit) for hit in self.variants[variant].hits[seed]] for seed in seeds], np.float64)


def write(path: Path, saved: Saved) -> None:
    """Write a study, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(asdict(saved), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(path: Path) -> Saved:
    """Read a study.

    Raises:
        ValueError: the file holds none; names it.
        OSError: it cannot be read.
    """
    fields = Saved.__dataclass_fields__
    content = SINCE | read_json(path, remedy=REMEDY, keys=tuple(name for name in fields if name not in SINCE))
    try:
        variants = {
            name: Trained(
                stage=str(found["stage"]),
                changes=tuple(found["changes"]),
                seconds=float(found["seconds"]),
                hits=dict(found["hits"]),
            )
            for name, found in content["variants"].items()
        }
        saved = Saved(
            **{name: content[name] for name in fields}
            | {"variants": variants}
            | {"groups": tuple(content["groups"]), "class_names": tuple(map(str, content["class_names"]))}
            | {"labels": tuple(map(operator.index, content["labels"]))}
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is no study ({error!r}); {REMEDY}") from error
    for name, trained in saved.variants.items():
        for seed, hits in trained.hits.items():
            if not seed.isdecimal() or len(hits) != len(saved.groups) or set(hits) - {"0", "1"}:
                raise ValueError(f"{path}: {name}, seed {seed}: holds no hits of {len(saved.groups)} clips; {REMEDY}")
    known = len(saved.class_names) == saved.classes and len(saved.labels) == len(saved.groups)
    if (saved.class_names or saved.labels) and not (known and set(saved.labels) <= set(range(saved.classes))):
        raise ValueError(
            f"{path}: labels: found {len(saved.labels)} of {len(saved.class_names)} names, wanted one of each of "
            f"{len(saved.groups)} clips, among {saved.classes} classes; {REMEDY}"
        )
    return saved

"""Several saved studies as one: trainings of several machines, and splits of one data set."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.studies.saved import Saved, Trained
from pipeline.studies.variants import MEASURED, SEEDED

WITHOUT_EFFECT = (*(f"{section}.seed" for section in SEEDED), "prepare.max_memory_mb", "prepare.max_seconds")
"""What a study sets by its own seeds, and what no answer depends on, beside the sections of machine and test."""
SAME_LIGHT = 0.01
"""Share by which mean lumas may differ: machines round differently, exposures differ by a half and more."""


def added(kept: Saved, new: Saved) -> Saved:
    """A saved study with trainings of another time or machine added.

    What is said of the study (title, note, pool, recipes) is the newer one's; commits and hardware are both's.

    Raises:
        ValueError: they are not of the same clips, light and settings, or hold other answers of the same training.
    """
    for name, found, wanted in (
        ("subset", new.subset, kept.subset),
        ("classes", new.classes, kept.classes),
        ("training clips", new.train_clips, kept.train_clips),
        ("clips, by their ids, labels and subsets", new.clips_sha256[:12], kept.clips_sha256[:12]),
        ("settings", *_first_difference(_of_trainings(new), _of_trainings(kept))),
    ):
        if found != wanted:
            raise ValueError(f"{new.title}: {name}: found {found}, wanted {wanted} of the file; save to another file")
    if abs(new.mean_luma - kept.mean_luma) > SAME_LIGHT * max(new.mean_luma, kept.mean_luma):
        raise ValueError(
            f"{new.title}: mean luma: found {new.mean_luma:g}, wanted {kept.mean_luma:g} of the file; these are the "
            "same clips in other light, save to another file"
        )
    if new.groups != kept.groups:
        raise ValueError(
            f"{new.title}: scenes: found {len(set(new.groups))} of {len(new.groups)} clips, wanted those of the file, "
            f"{len(set(kept.groups))} of {len(kept.groups)}; give the same --scenes, or save to another file"
        )
    variants = dict(kept.variants)
    for name, trained in new.variants.items():
        variants[name] = _joined(name, variants[name], trained) if name in variants else trained
    return dataclasses.replace(
        new, commit=_both(kept.commit, new.commit), hardware=_both(kept.hardware, new.hardware), variants=variants
    )


def _joined(name: str, kept: Trained, new: Trained) -> Trained:
    _require_same_training(f"{name}: ", new, kept, remedy="rename it")
    for seed in sorted(set(kept.hits) & set(new.hits), key=int):
        if kept.hits[seed] != new.hits[seed]:
            raise ValueError(f"{name}, seed {seed}: found other answers than in the file; save to another file")
    fresh = sum(seed not in kept.hits for seed in new.hits) / max(len(new.hits), 1)
    return dataclasses.replace(
        new, seconds=round(kept.seconds + new.seconds * fresh, 1), hits={**kept.hits, **new.hits}
    )


def in_other_light(first: Saved, second: Saved) -> bool:
    """Whether two studies are of the same clips and settings, but for the light."""
    settings = [_of_trainings(study) for study in (first, second)]
    for values in settings:
        values.pop("render.exposure_ev", None)
    lumas = sorted((first.mean_luma, second.mean_luma))
    return (
        (first.subset, first.clips_sha256, first.groups) == (second.subset, second.clips_sha256, second.groups)
        and settings[0] == settings[1]
        and lumas[1] - lumas[0] > SAME_LIGHT * lumas[1]
    )


def pooled(studies: Sequence[Saved]) -> Saved:
    """Several splits of a data set as one study, of the variants and seeds that all have.

    A clip that several of them test counts each time; its scene is drawn whole. Training clips and light are means;
    notes are those of the splits.

    Raises:
        ValueError: they are not of the same subset, classes, settings and variants.
    """
    first = studies[0]
    for other in studies:
        said = f"with which it shares the row {first.pool!r}; save one of them under another --pool"
        if (other.subset, other.classes) != (first.subset, first.classes):
            raise ValueError(
                f"{other.title}: found {other.subset} clips of {other.classes} classes, wanted those of {first.title}, "
                f"{first.subset} and {first.classes}, {said}"
            )
        if other.class_names and first.class_names and other.class_names != first.class_names:
            raise ValueError(
                f"{other.title}: classes: found {', '.join(other.class_names)}, wanted those of {first.title}, "
                f"{', '.join(first.class_names)}, {said}"
            )
        found, wanted = _first_difference(_of_trainings(other), _of_trainings(first))
        if found != wanted:
            raise ValueError(f"{other.title}: settings: found {found}, wanted {wanted} of {first.title}, {said}")
    variants = {}
    for name in first.variants:
        parts = [study.variants[name] for study in studies if name in study.variants]
        if len(parts) < len(studies):
            continue
        for study, part in zip(studies, parts, strict=True):
            _require_same_training(f"{study.title}: {name}: ", part, parts[0], remedy="rename it")
        seeds = set.intersection(*(set(part.hits) for part in parts))
        variants[name] = dataclasses.replace(
            parts[0],
            seconds=sum(part.seconds for part in parts),
            hits={seed: "".join(part.hits[seed] for part in parts) for seed in sorted(seeds, key=int)},
        )
    sizes = [len(study.groups) for study in studies]
    labelled = all(study.labels for study in studies)
    return dataclasses.replace(
        first,
        title=first.pool,
        note="",
        pool="",
        train_clips=round(sum(study.train_clips for study in studies) / len(studies)),
        mean_luma=round(float(np.average([study.mean_luma for study in studies], weights=sizes)), 2),
        clips_sha256=hashlib.sha256(" ".join(study.clips_sha256 for study in studies).encode()).hexdigest(),
        groups=tuple(group for study in studies for group in study.groups),
        recipes=max(study.recipes for study in studies),
        commit=_both(*(study.commit for study in studies)),
        hardware=_both(*(study.hardware for study in studies)),
        variants=variants,
        class_names=first.class_names if labelled else (),
        labels=tuple(label for study in studies for label in study.labels) if labelled else (),
    )


def _require_same_training(where: str, found: Trained, wanted: Trained, *, remedy: str) -> None:
    if (found.stage, found.changes) != (wanted.stage, wanted.changes):
        raise ValueError(
            f"{where}found {found.stage} with {list(found.changes)}, wanted {wanted.stage} with "
            f"{list(wanted.changes)}, as elsewhere under this name; {remedy}"
        )


def _of_trainings(saved: Saved) -> dict[str, Any]:
    """The settings that answers depend on."""
    values = {f"{section}.{key}": value for section, values in saved.settings.items() for key, value in values.items()}
    return {
        name: value
        for name, value in values.items()
        if name in MEASURED or (name not in WITHOUT_EFFECT and name.partition(".")[0] not in ("compute", "evaluate"))
    }


def _first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, str]:
    for key in sorted(set(found) | set(wanted)):
        if found.get(key) != wanted.get(key):
            return f"{key}: {found.get(key)}", f"{key}: {wanted.get(key)}"
    return "", ""


def _both(*texts: str) -> str:
    return "; ".join(dict.fromkeys(part for text in texts for part in text.split("; ")))

"""A study's answers as one small file, which tables are printed from and which can be kept with the code."""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.clip_index import Clip, class_names_in, of_subset, read_clips
from pipeline.clips.files import replacing
from pipeline.mapping_file import read_json
from pipeline.studies.runner import Study

REMEDY = "save the study again"
TRAIN_AGAIN = "remove it to train again"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What was found of one variant."""

    stage: str
    """baseline, teacher or student."""
    changes: tuple[str, ...]
    """SECTION.KEY=VALUE, on top of the study's settings."""
    seconds: float
    """Of all seeds together, with reading and testing."""
    hits: Mapping[str, str]
    """By seed: 1 for each clip that was answered rightly, else 0, in the order of the clips."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A study of one run."""

    title: str
    """What the row of a table is called."""
    subset: str
    """test or holdout."""
    classes: int
    train_clips: int
    groups: tuple[str, ...]
    """Scene of each clip; of an unknown one a hash of the clip's id, which may say more than it should."""
    pool: str
    """What the row is called that this study shares with others, such as splits of one data set; empty for none."""
    recipes: int
    """Settings that were tried on held-out training scenes before."""
    commit: str
    """Of the code that trained; several are separated by semicolons."""
    hardware: str
    settings: Mapping[str, Any]
    """Sections of params.yaml."""
    variants: Mapping[str, Trained]

    def seeds(self, *variants: str) -> list[str]:
        """Seeds that all these variants were trained with."""
        kept = [self.variants[name].hits if name in self.variants else {} for name in variants]
        return sorted(set.intersection(*map(set, kept)), key=int)

    def hits(self, variant: str, seeds: Sequence[str]) -> NDArray[np.float64]:
        """(S, N) of these seeds and all clips: 1 where the answer was right."""
        return np.array([[int(hit) for hit in self.variants[variant].hits[seed]] for seed in seeds], np.float64)


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a study cannot tell of itself."""

    title: str
    """What the row of a table is called."""
    pool: str
    """What the row is called that the study shares with others; empty for none."""
    recipes: int
    """Settings that were tried on held-out training scenes before."""
    hardware: str


def gather(study: Study, words: Words, *, scenes: Mapping[str, str], settings: Mapping[str, Any]) -> Saved:
    """Everything that a study has kept.

    Args:
        study: whose trainings are read.
        words: about it.
        scenes: of clips by id, where their names do not tell it.
        settings: sections of params.yaml.

    Raises:
        ValueError: there is no training, or one of other clips.
    """
    clips = study.clips()
    folders = sorted(path for path in study.root.glob("*") if path.is_dir() and path.name != "trained")
    variants = {folder.name: _gathered(folder, clips) for folder in folders if any(folder.glob("*.json"))}
    commits = [_record(path)["commit"] for folder in folders for path in sorted(folder.glob("*.json"))]
    if not variants:
        raise ValueError(f"{study.root}: holds no training; run `dlkdd study run {study.folder.name}` first")
    everyone = read_clips(study.clip_index)
    return Saved(
        **asdict(words),
        commit="; ".join(sorted(set(commits))),
        subset=study.subset,
        classes=len(class_names_in(everyone)),
        train_clips=len(of_subset(everyone, "train")),
        groups=_groups(clips, scenes),
        settings=settings,
        variants=variants,
    )


def _gathered(folder: Path, clips: Sequence[Clip]) -> Trained:
    seconds, hits = 0.0, {}
    for path in sorted(folder.glob("*.json")):
        record = _record(path)
        if len(record["answers"]) != len(clips):
            raise ValueError(f"{path}: found {len(record['answers'])} answers, wanted {len(clips)}; {TRAIN_AGAIN}")
        seconds += record["seconds"]
        hits[path.stem] = _hits(record["answers"], clips)
    return Trained(stage=record["stage"], changes=tuple(record["changes"]), seconds=round(seconds, 1), hits=hits)


def _record(path: Path) -> dict[str, Any]:
    return read_json(path, remedy=TRAIN_AGAIN, keys=("answers", "changes", "commit", "seconds", "stage"))


def _hits(answers: Sequence[int], clips: Sequence[Clip]) -> str:
    return "".join(str(int(answer == clip.label)) for answer, clip in zip(answers, clips, strict=True))


def _groups(clips: Sequence[Clip], scenes: Mapping[str, str]) -> tuple[str, ...]:
    found = [scenes.get(clip.id, clip.scene) for clip in clips]
    # Where its name tells no scene, a clip's scene is its id.
    return tuple(
        hashlib.sha256(scene.encode()).hexdigest()[:12] if scene == clip.id else scene
        for clip, scene in zip(clips, found, strict=True)
    )


def pooled(studies: Sequence[Saved]) -> Saved:
    """Several splits of a data set as one study, of the seeds that all have.

    A clip that several of them test counts each time; its scene is drawn whole.

    Raises:
        ValueError: they are not of the same subset and classes.
    """
    first = studies[0]
    for other in studies:
        if (other.subset, other.classes) != (first.subset, first.classes):
            raise ValueError(
                f"{other.title}: found {other.subset} clips of {other.classes} classes, wanted those of {first.title}, "
                f"{first.subset} and {first.classes}, with which it shares the row {first.pool!r}; save one of them "
                "under another --pool"
            )
    variants = {}
    for name in first.variants:
        parts = [study.variants[name] for study in studies if name in study.variants]
        if len(parts) == len(studies):
            seeds = set.intersection(*(set(part.hits) for part in parts))
            variants[name] = Trained(
                stage=parts[0].stage,
                changes=parts[0].changes,
                seconds=sum(part.seconds for part in parts),
                hits={seed: "".join(part.hits[seed] for part in parts) for seed in sorted(seeds, key=int)},
            )
    return dataclasses.replace(
        first,
        title=first.pool,
        pool="",
        train_clips=sum(study.train_clips for study in studies),
        groups=tuple(group for study in studies for group in study.groups),
        variants=variants,
    )


def added(kept: Saved, new: Saved) -> Saved:
    """A saved study with the trainings of another session or machine added.

    What is said of the study (title, pool, scenes, recipes) is the newer one's; commits and hardware are of both.

    Raises:
        ValueError: they are not of the same clips, classes and settings, or hold other answers of the same training.
    """
    for name, found, wanted in (
        ("subset", new.subset, kept.subset),
        ("classes", new.classes, kept.classes),
        ("training clips", new.train_clips, kept.train_clips),
        ("settings", *_first_difference(_of_trainings(new), _of_trainings(kept))),
    ):
        if found != wanted:
            raise ValueError(f"{new.title}: {name}: found {found}, wanted {wanted} of the file; save to another file")
    if new.groups != kept.groups:
        raise ValueError(
            f"{new.title}: scenes: found {len(set(new.groups))} of {len(new.groups)} clips, wanted those of the file, "
            f"{len(set(kept.groups))} of {len(kept.groups)}; save to another file"
        )
    variants = dict(kept.variants)
    for name, trained in new.variants.items():
        variants[name] = _joined(name, variants[name], trained) if name in variants else trained
    return dataclasses.replace(
        new,
        commit=_both(kept.commit, new.commit),
        hardware=_both(kept.hardware, new.hardware),
        variants=variants,
    )


def _joined(name: str, kept: Trained, new: Trained) -> Trained:
    if (kept.stage, kept.changes) != (new.stage, new.changes):
        raise ValueError(
            f"{name}: found {new.stage} with {list(new.changes)}, wanted {kept.stage} with {list(kept.changes)} of the "
            "file; rename it"
        )
    for seed in sorted(set(kept.hits) & set(new.hits), key=int):
        if kept.hits[seed] != new.hits[seed]:
            raise ValueError(f"{name}, seed {seed}: found other answers than in the file; train other seeds")
    doubles = [seed for seed in new.hits if seed in kept.hits]
    share = 1 - len(doubles) / len(new.hits)
    return Trained(
        stage=new.stage,
        changes=new.changes,
        seconds=round(kept.seconds + new.seconds * share, 1),
        hits={**kept.hits, **new.hits},
    )


def _of_trainings(saved: Saved) -> dict[str, Any]:
    """The settings that a training's answers depend on."""
    return {
        f"{section}.{key}": value
        for section in ("prepare", "views", "enhancer", "teacher", "logits", "student")
        for key, value in saved.settings.get(section, {}).items()
        if key != "seed"
    }


def _first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, str]:
    for key in sorted(set(found) | set(wanted)):
        if found.get(key) != wanted.get(key):
            return f"{key}: {found.get(key)}", f"{key}: {wanted.get(key)}"
    return "", ""


def _both(kept: str, new: str) -> str:
    return "; ".join(dict.fromkeys([*kept.split("; "), *new.split("; ")]))


def read_scenes(path: Path) -> dict[str, str]:
    """Scenes by clip id, from a table with the columns `path` and `scene`, separated by tabs or commas.

    Raises:
        ValueError: it is no such table.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text ({error}); save it as UTF-8") from error
    header, _, _ = text.partition("\n")
    rows = csv.DictReader(text.splitlines(), delimiter="\t" if "\t" in header else ",")
    if not {"path", "scene"} <= set(rows.fieldnames or ()):
        raise ValueError(f"{path}: found the columns {header[:80]!r}, wanted path and scene among them; add them")
    return {row["path"]: row["scene"] for row in rows if row["path"] and row["scene"]}


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
    content = read_json(path, remedy=REMEDY, keys=tuple(fields))
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
            **{name: content[name] for name in fields} | {"variants": variants, "groups": tuple(content["groups"])}
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is no study ({error!r}); {REMEDY}") from error
    for name, trained in saved.variants.items():
        for seed, hits in trained.hits.items():
            if not seed.isdecimal() or len(hits) != len(saved.groups) or set(hits) - {"0", "1"}:
                raise ValueError(f"{path}: {name}, seed {seed}: holds no hits of {len(saved.groups)} clips; {REMEDY}")
    return saved

"""From what a study has kept to what is saved of it."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clips.clip_index import Clip, class_names_in, of_subset, read_clips
from pipeline.clips.files import sha256_of
from pipeline.config import SECTION_TYPES
from pipeline.mapping_file import read_json
from pipeline.params import read_params
from pipeline.studies.prepared import TRAIN_AGAIN, Study, made_from, require_origin
from pipeline.studies.saved import UNKNOWN, Saved, Trained, Words
from pipeline.studies.variants import RESERVED, Variant, settings_for


def gather(study: Study, words: Words, *, scenes: Mapping[str, str]) -> Saved:
    """Everything that a study has kept of the clips and settings that its run has now.

    Args:
        study: whose trainings are read.
        words: about it.
        scenes: of clips by id, where their names do not tell it.

    Raises:
        ValueError: there is no training, or one of other clips or settings; or the scenes are of other clips.
    """
    clips, params = study.clips(), read_params(study.params)
    folders = sorted(path for path in study.root.glob("*") if path.is_dir() and path.name != RESERVED)
    records = {path: _record(path) for folder in folders for path in sorted(folder.glob("*.json"))}
    if not records:
        raise ValueError(f"{study.root}: holds no training; run `dlkdd study run {study.folder.name}` first")
    if scenes and not any(clip.id in scenes for clip in clips):
        raise ValueError(
            f"scenes: found none of the {len(clips)} clips, wanted paths such as {clips[0].id}; write ids as paths"
        )
    for path, record in records.items():
        variant = Variant(name=record["variant"], stage=record["stage"], changes=tuple(record["changes"]))
        settings = settings_for(params, variant.changes, seed=record["seed"])
        require_origin(path, record, made_from(study, variant, settings))
    train = of_subset(read_clips(study.clip_index), "train")
    names = class_names_in(read_clips(study.clip_index))
    identity = sorted((clip.id, clip.label, clip.subset) for clip in (*train, *clips))
    return Saved(
        **asdict(words),
        subset=study.subset,
        classes=len(names),
        train_clips=len(train),
        clips_sha256=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        mean_luma=round(float(np.mean([clip.mean_luma for clip in clips])), 2),
        groups=_groups(clips, scenes),
        commit="; ".join(sorted({record["commit"] for record in records.values()})),
        hardware="; ".join(sorted({record["hardware"] for record in records.values()})),
        settings={section: _shareable(params[section]) for section in SECTION_TYPES},
        variants={
            folder.name: _trained([record for path, record in records.items() if path.parent == folder], clips)
            for folder in folders
            if any(path.parent == folder for path in records)
        },
        class_names=names,
        labels=tuple(int(clip.label) for clip in clips),
    )


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


def _record(path: Path) -> dict[str, Any]:
    keys = ("answers", "changes", "commit", "hardware", "seconds", "seed", "stage", "variant")
    return read_json(path, remedy=TRAIN_AGAIN, keys=keys)


def _trained(records: Sequence[Mapping[str, Any]], clips: Sequence[Clip]) -> Trained:
    first = records[0]
    for record in records:
        if (record["stage"], record["changes"]) != (first["stage"], first["changes"]):
            raise ValueError(
                f"{record['variant']}, seed {record['seed']}: found {record['stage']} with {record['changes']}, wanted "
                f"{first['stage']} with {first['changes']} of seed {first['seed']}; {TRAIN_AGAIN}"
            )
    return Trained(
        stage=first["stage"],
        changes=tuple(map(_without_folder, first["changes"])),
        seconds=round(sum(record["seconds"] for record in records), 1),
        hits={str(record["seed"]): _hits(record["answers"], clips) for record in records},
    )


def _hits(answers: Sequence[int], clips: Sequence[Clip]) -> str:
    return "".join(str(int(answer == clip.label)) for answer, clip in zip(answers, clips, strict=True))


def _groups(clips: Sequence[Clip], scenes: Mapping[str, str]) -> tuple[str, ...]:
    found = [scenes.get(clip.id, clip.scene) for clip in clips]
    # Where its name tells no scene, a clip's scene is its id, which may say more than it should.
    return tuple(
        UNKNOWN + hashlib.sha256(scene.encode()).hexdigest()[:12] if scene == clip.id else scene
        for clip, scene in zip(clips, found, strict=True)
    )


def _shareable(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section that can be shown around: of a file of weights its name and hash."""
    return {key: _file(value) if key == "weights" and value else value for key, value in section.items()}


def _file(weights: str) -> str:
    path = Path(weights)
    return f"{path.name}, sha256 {sha256_of(path)[:12]}" if path.is_file() else path.name


def _without_folder(change: str) -> str:
    name, _, value = change.partition("=")
    return f"{name}={Path(value).name}" if name.endswith(".weights") else change

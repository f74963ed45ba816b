"""A prepared run whose trainings are compared, and what each of its trainings is made from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.clips.clip_index import Clip, of_subset, read_clips
from pipeline.clips.files import sha256_of
from pipeline.config import STUDENT_ONLY
from pipeline.studies.variants import MEASURED, Settings, Variant
from pipeline.version import VERSION

TRAIN_AGAIN = "remove it to train again"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A prepared run whose trainings are compared."""

    folder: Path
    """With clips.csv, statistics.json and enhancer.safetensors, as `dvc repro` leaves it."""
    videos: Path
    params: Path
    kept: Path
    """Folder of everything that the study writes."""
    subset: str
    """test, or holdout: the training scenes that prepare.holdout set aside, on which recipes are chosen."""
    device: torch.device
    commit: str
    """Of the code that trains, for the record."""
    hardware: str
    """That trains, for the record."""

    @property
    def clip_index(self) -> Path:
        """clips.csv."""
        return self.folder / "clips.csv"

    @property
    def statistics(self) -> Path:
        """Of the dark training frames."""
        return self.folder / "statistics.json"

    @property
    def enhancer(self) -> Path:
        """Of the run's own settings."""
        return self.folder / "enhancer.safetensors"

    @property
    def root(self) -> Path:
        """Of what is kept of this subset."""
        return self.kept / self.subset

    def clips(self) -> list[Clip]:
        """The clips that are measured; those of the test need a label.

        Raises:
            ValueError: there are none.
        """
        clips = [clip for clip in of_subset(read_clips(self.clip_index), self.subset) if clip.label >= 0]
        if not clips:
            raise ValueError(
                f"{self.clip_index}: holds no labelled {self.subset} clip; "
                + ("give prepare a labelled test list" if self.subset == "test" else "set prepare.holdout above 0")
            )
        return clips

    def record(self, variant: str, seed: int) -> Path:
        """Where a training's answers are kept."""
        return self.root / variant / f"{seed}.json"


def made_from(study: Study, variant: Variant, settings: Settings) -> dict[str, Any]:
    """Everything that a training's answers depend on, but for the code of one version and the machine.

    Returns:
        Plain values by SECTION.KEY, and the sha256 of files by their name, or by the key that names them.
    """
    sections, files = settings.of("views", "student"), [study.clip_index, study.statistics]
    if variant.stage == "baseline":
        # no soft targets and no enhancer, but as many views as a student has
        sections["student"] = {key: value for key, value in sections["student"].items() if key not in STUDENT_ONLY}
        sections["logits"] = {"views": settings.configs["logits"].views}
    else:
        sections = settings.of("views", "teacher", *(("student",) if variant.stage == "student" else ()))
        if settings.configs["teacher"].input != "dark":
            sections |= settings.of("enhancer")
            files.append(study.enhancer)
    if variant.stage == "student":
        # minimum_top1 stops a training, and changes none
        sections["logits"] = {key: settings.values["logits"][key] for key in ("views", "batch_size")}
    require_files(files)
    values = {f"{section}.{key}": value for section, of_keys in sections.items() for key, value in of_keys.items()}
    weights = {name: Path(value) for name, value in values.items() if name.endswith(".weights") and value}
    made = {
        "stage": variant.stage,
        "version": VERSION,
        **{name: settings.values[name.partition(".")[0]][name.partition(".")[2]] for name in MEASURED},
        **values,
        **{name: f"sha256 {sha256_of(path)}" for name, path in (weights | {path.name: path for path in files}).items()},
    }
    plain: dict[str, Any] = json.loads(json.dumps(made))  # as a file gives it back
    return plain


def require_origin(path: Path, record: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a kept training of other settings, clips or of another version.

    Args:
        path: of the kept training.
        record: what it holds.
        wanted: see `made_from`.

    Raises:
        ValueError: it is one; names the file and the first difference.
    """
    remedy = f"remove the folder {path.parent} to train all of it again, or give the variant another name"
    found = record.get("made_from")
    if not isinstance(found, dict):
        raise ValueError(f"{path}: does not say what it was made from, as trainings of this version do; {remedy}")
    # Another stage or version has other settings too, which say less.
    for name in ("stage", "version", *sorted(set(found) | set(wanted))):
        if (name in found, found.get(name)) != (name in wanted, wanted.get(name)):
            was, now = (values.get(name, "none") for values in (found, wanted))
            raise ValueError(f"{path}: {name}: was trained with {was}, found {now} now; set it back, or {remedy}")


def require_files(prepared: Sequence[Path]) -> None:
    """Refuse a run that is not prepared, with a ValueError."""
    for path in prepared:
        if not path.is_file():
            raise ValueError(f"{path}: no such file; run `dvc repro enhancer@{path.parent.name}` first")

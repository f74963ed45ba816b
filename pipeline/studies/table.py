"""Studies as tables: the paper's Table 4, and what a gain has to be more than."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.studies.bootstrap import Estimate, bootstrap
from pipeline.studies.joined import in_other_light, pooled
from pipeline.studies.saved import UNKNOWN, Saved, read
from pipeline.studies.variants import VARIANTS
from pipeline.tables.paper_rows import DASH, MODELS
from pipeline.tables.paper_text import Table

RESAMPLES = 10_000
FEW_SCENES = FEW_SEEDS = 8
"""With fewer the intervals are too narrow, see tests/test_studies.py."""
DRAWS_SEED = 0
ORDER = (("student", "teacher"), ("student", "baseline"), ("teacher", "baseline"))
CONTROLS = ("dark-student", "smoothed", "shuffled")
LIGHT = (("teacher", "dark-teacher"), ("dark-teacher", "baseline"))
CONTROLLED = tuple(("student", name) for name in CONTROLS) + tuple((name, "baseline") for name in CONTROLS)


def read_studies(place: Path) -> list[Saved]:
    """The study of a file, or all in a folder, by file name.

    Raises:
        ValueError: there is none, or a file holds none.
    """
    found = [read(path) for path in (sorted(place.glob("*.json")) if place.is_dir() else [place])]
    if not found:
        raise ValueError(f"{place}: holds no study; save one with `dlkdd study save`")
    return found


def tables(studies: Sequence[Saved]) -> list[Table]:
    """The claim, the controls and further variants, where a study has them, and at last what the studies are."""
    rows = _with_pools(studies)
    main = _table(
        "Student, teacher and baseline",
        [study for study in rows if any(name in study.variants for name in MODELS)],
        MODELS,
        ORDER,
    )
    light = _table(
        "Teachers with and without light",
        [study for study in rows if "dark-teacher" in study.variants],
        ("teacher", "dark-teacher", "baseline"),
        LIGHT,
    )
    controls = _table(
        "The student and its controls",
        [study for study in rows if any(name in study.variants for name in CONTROLS)],
        ("student", *CONTROLS),
        CONTROLLED,
    )
    compared = (main, light, controls, _darkness(rows), _further(rows))
    own = [row for row in rows if any(row is study for study in studies)]
    return [*(table for table in compared if table.rows), _about(own, rows)]


def _darkness(studies: Sequence[Saved]) -> Table:
    """What the same clips, darker, take from each model: the lightest study of some clips beside each darker one."""
    titles = {study.title for study in studies}
    # Splits are compared together.
    whole = sorted((study for study in studies if study.pool not in titles), key=lambda study: -study.mean_luma)
    rows: list[tuple[str, ...]] = []
    few = False
    for place, dark in enumerate(whole):
        lit = next((study for study in whole[:place] if _comparable(study, dark)), None)
        if lit is None:
            continue
        costs = {name: _cost(lit, dark, name) for name in MODELS}
        values = [*costs.values(), *(_minus(costs[first], costs[second]) for first, second in ORDER)]
        few = few or any(0 < len(of_seed) < FEW_SEEDS for of_seed in values)
        cells = (_cell(_estimate(of_seed, dark), "+") for of_seed in values)
        rows.append((f"{lit.title} to {dark.title}", _counts(dark), *cells))
    header = ("data", "clips / scenes", *MODELS, *(f"{first} - {second}" for first, second in ORDER))
    title = "What darkness costs: top-1 on the darker clips minus on the lighter"
    notes = (f"the intervals of fewer than {FEW_SEEDS} seeds are too narrow",) if few else ()
    return Table(title=title, header=header, rows=tuple(rows), notes=notes)


def _comparable(lit: Saved, dark: Saved) -> bool:
    """Whether some model was trained with the same seed on the same clips in both lights."""
    return in_other_light(lit, dark) and any(set(lit.seeds(name)) & set(dark.seeds(name)) for name in MODELS)


def _cost(lit: Saved, dark: Saved, variant: str) -> dict[str, NDArray[np.float64]]:
    """Of each common seed, (N,) of the clips: a hit in the dark minus the one in the light."""
    seeds = [seed for seed in lit.seeds(variant) if seed in dark.seeds(variant)]
    return {seed: dark.hits(variant, [seed])[0] - lit.hits(variant, [seed])[0] for seed in seeds}


def _minus(
    first: Mapping[str, NDArray[np.float64]], second: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    return {seed: first[seed] - second[seed] for seed in first if seed in second}


def _estimate(values: Mapping[str, NDArray[np.float64]], study: Saved) -> Estimate | None:
    if not values:
        return None
    return bootstrap(np.array(list(values.values())), study.groups, resamples=RESAMPLES, seed=DRAWS_SEED)


def class_table(studies: Sequence[Saved]) -> Table:
    """The claim for the clips of each class alone.

    Raises:
        ValueError: a study was saved by a version that kept no labels.
    """
    pairs = (*ORDER, LIGHT[0])
    rows, intervals, unknown = [], 0, False
    for study in _with_pools(studies):
        if not study.labels:
            raise ValueError(f"{study.title}: labels: found none, wanted those of the clips; save the study again")
        for label, name in enumerate(study.class_names):
            part = study.of_class(label)
            if part.groups:
                found = [difference(part, *pair) for pair in pairs]
                intervals += sum(_has_interval(estimate) for estimate in found)
                unknown = unknown or len(_known_scenes(part)) < len(set(part.groups))
                shares = (_share(part, model) for model in MODELS)
                cells = (_cell(estimate, "+") for estimate in found)
                rows.append((study.title, name, _counts(part), *shares, *cells))
    notes = [
        f"95 % intervals by {RESAMPLES} draws of scenes and seeds together; x: seeds; if none of the {intervals} "
        f"differences with an interval were there, about {0.05 * intervals:.1f} of them would stand in one without "
        f"zero, and more of fewer than {FEW_SCENES} scenes or {FEW_SEEDS} seeds, whose intervals are too narrow"
    ]
    if unknown:
        notes.append("clips of unknown scenes are drawn one by one: too narrow where they share some")
    header = ("data", "class", "clips / scenes", *MODELS, *(f"{first} - {second}" for first, second in pairs))
    return Table(title="By class", header=header, rows=tuple(rows), notes=tuple(notes))


def _with_pools(studies: Sequence[Saved]) -> list[Saved]:
    """The studies, and what several of them are together behind these."""
    rows: list[Saved] = []
    for pool in dict.fromkeys(study.pool for study in studies):
        members = [study for study in studies if study.pool == pool]
        rows += [*members, pooled(members)] if pool and len(members) > 1 else members
    return rows


def _further(studies: Sequence[Saved]) -> Table:
    """Variants of a study's own, each beside the one that it changes."""
    rows = [
        (
            study.title,
            name,
            trained.stage,
            " ".join(trained.changes),
            _share(study, name),
            _difference(study, name, trained.stage),
            _difference(study, name, "baseline"),
        )
        for study in studies
        for name, trained in study.variants.items()
        if name not in VARIANTS
    ]
    header = ("data", "variant", "of", "changes", "top-1", "minus what it changes", "minus baseline")
    return Table(title="Further variants", header=header, rows=tuple(rows), notes=())


def _table(
    title: str,
    studies: Sequence[Saved],
    variants: Sequence[str],
    pairs: Sequence[tuple[str, str]],
) -> Table:
    rows = [
        (
            study.title,
            _counts(study),
            *(_share(study, name) for name in variants),
            *(_difference(study, *pair) for pair in pairs),
        )
        for study in studies
    ]
    header = ("data", "clips / scenes", *variants, *(f"{first} - {second}" for first, second in pairs))
    return Table(title=title, header=header, rows=tuple(rows), notes=())


def share(study: Saved, variant: str) -> Estimate | None:
    """Top-1 of a variant; None where it was not trained."""
    if not (seeds := study.seeds(variant)):
        return None
    return bootstrap(study.hits(variant, seeds), study.groups, resamples=RESAMPLES, seed=DRAWS_SEED)


def difference(study: Saved, first: str, second: str) -> Estimate | None:
    """Top-1 of one variant minus another's with the same seeds and clips; None without a common seed."""
    if not (seeds := study.seeds(first, second)):
        return None
    values = study.hits(first, seeds) - study.hits(second, seeds)
    return bootstrap(values, study.groups, resamples=RESAMPLES, seed=DRAWS_SEED)


def _share(study: Saved, variant: str) -> str:
    return _cell(share(study, variant), "")


def _difference(study: Saved, first: str, second: str) -> str:
    return _cell(difference(study, first, second), "+")


def _cell(found: Estimate | None, sign: str) -> str:
    """A mean, its interval, and the number of seeds; no interval where one seed or one scene shows no spread."""
    if found is None:
        return DASH
    spread = f"{found.low:{sign}.3f} to {found.high:{sign}.3f}" if _has_interval(found) else DASH
    return f"{found.mean:{sign}.3f} ({spread}) x{found.seeds}"


def _counts(study: Saved) -> str:
    return f"{len(study.groups)} / {len(_known_scenes(study)) or 'unknown'}"


def _has_interval(found: Estimate | None) -> bool:
    return found is not None and min(found.seeds, found.groups) > 1


def _known_scenes(study: Saved) -> set[str]:
    return {scene for scene in study.groups if not scene.startswith(UNKNOWN)}


def _about(studies: Sequence[Saved], rows: Sequence[Saved]) -> Table:
    """What else is to be known of the studies, and of all rows of the other tables."""
    details = tuple(
        (
            study.title,
            f"{len(study.groups)} {study.subset}",
            f"{study.classes}",
            f"{1 / study.classes:.3f}",
            f"{study.mean_luma:.1f}",
            f"{study.train_clips}",
            f"{study.recipes}",
            _short(study.commit),
            study.hardware,
            f"{sum(trained.seconds for trained in study.variants.values()) / 3600:.1f}",
        )
        for study in studies
    )
    notes = [f"top-1, with 95 % intervals by {RESAMPLES} draws of scenes and seeds together; x10: of ten seeds"]
    if any(len(study.seeds(*cell)) < FEW_SEEDS for study in rows for cell in _printed(study)):
        notes[0] += f"; the intervals of fewer than {FEW_SEEDS} seeds are too narrow"
    notes.append(
        "mean luma: of the clips that are measured, 16 (in full range 0) is black; recipes: tried before, on clips set "
        "aside"
    )
    titles: dict[str, list[str]] = {}
    for study in rows:
        if words := _scene_words(study):
            titles.setdefault(words, []).append(study.title)
    for study in studies:
        if study.note:
            titles.setdefault(study.note, []).append(study.title)
    notes += [f"{'; '.join(of)}: {words}" for words, of in titles.items()]
    header = ("data", "clips", "classes", "chance", "mean luma", "training clips", "recipes")
    return Table(title="The studies", header=(*header, "commit", "hardware", "hours"), rows=details, notes=tuple(notes))


def _scene_words(study: Saved) -> str:
    """What its scenes do to the intervals; empty where they are many and known."""
    scenes, known = set(study.groups), len(_known_scenes(study))
    unknown, words = len(scenes) - known, []
    if unknown:
        words.append(f"{unknown} clips of unknown scenes are drawn one by one: too narrow where they share some")
    if len(scenes) == 1:
        words.append("one scene shows no spread: no intervals")
    elif 0 < known < FEW_SCENES or len(scenes) < FEW_SCENES:
        words.append(f"{known or len(scenes)} scenes: the intervals are too narrow")
    return "; ".join(words)


def _printed(study: Saved) -> list[tuple[str, ...]]:
    """Variants, and pairs of them with common seeds, that some table has a cell of."""
    own = [(name, trained.stage) for name, trained in study.variants.items() if name not in VARIANTS]
    pairs = (*ORDER, *LIGHT, *CONTROLLED, *own, *((name, "baseline") for name, _ in own))
    return [cell for cell in (*((name,) for name in study.variants), *pairs) if study.seeds(*cell)]


def _short(commits: str) -> str:
    """Commits by their first seven letters."""
    return re.sub(r"\b([0-9a-f]{7})[0-9a-f]{33}\b", r"\1", commits)

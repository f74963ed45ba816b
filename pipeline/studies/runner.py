"""Trains the variants of a study with one seed after the other, through the stages themselves.

`<folder>/<subset>/<variant>/<seed>.json` keeps what each training answered; what lies there already is not trained
again, so a stopped study goes on. Students that have the same teacher share it and its store.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clips.clip_index import Clip, class_names_in, read_clips
from pipeline.clips.files import replacing, sha256_of
from pipeline.clips.frame_cache import cache_policy
from pipeline.config import ComputeConfig
from pipeline.inference.loading import load_recogniser
from pipeline.inference.tested_clips import clip_logits, protocol_views
from pipeline.mapping_file import read_json
from pipeline.params import read_params, read_section
from pipeline.studies.chains import Chain, chains_of, own_enhancer
from pipeline.studies.prepared import TRAIN_AGAIN, Study, made_from, require_files, require_origin
from pipeline.studies.progress import Progress, progress_of
from pipeline.studies.variants import Settings, Variant, settings_for
from pipeline.training.classification import weights_files
from pipeline.training.machine import set_up_machine
from pipeline.training.work_folder import work_root
from pipeline.version import VERSION
from stages import baseline, enhancer, logits, student, teacher


def train(study: Study, variants: Sequence[Variant], seeds: Sequence[int], *, progress: Progress | None = None) -> None:
    """Train and measure every variant with every seed, but for those whose answers are kept already.

    Args:
        study: a prepared run.
        variants: to train.
        seeds: to train them with.
        progress: of the call that these are a part of; None: they are all of it.

    Raises:
        ValueError: the run is not prepared, kept answers are of other settings or clips, or an epoch would be chosen
            on the clips that are measured.
        OSError: a file cannot be read or written.
    """
    clips = study.clips()
    progress = progress or all_of(study, variants, seeds)
    for seed in seeds:
        for variant in variants:
            settings, origin = _checked(study, variant, seed)
            kept = study.record(variant.name, seed)
            if kept.is_file():
                continue
            started = time.monotonic()
            checkpoint = _trained(study, variant, settings, seed)
            answers = _answers(study, variant, settings, checkpoint, clips)
            record = {
                "variant": variant.name,
                "stage": variant.stage,
                "changes": list(variant.changes),
                "seed": seed,
                "made_from": origin,
                "commit": study.commit,
                "hardware": study.hardware,
                "seconds": round(time.monotonic() - started, 1),
                "answers": answers,
            }
            with replacing(kept) as partial:
                partial.write_text(json.dumps(record) + "\n", encoding="utf-8")
            right = sum(answer == clip.label for answer, clip in zip(answers, clips, strict=True))
            print(
                f"{study.folder.name} {variant.name} seed {seed}: {right / len(clips):.3f} of {len(clips)}, "
                f"{record['seconds']:.0f} s; {progress.told()}",
                flush=True,
            )


def all_of(study: Study, variants: Sequence[Variant], seeds: Sequence[int], *, jobs: int = 1) -> Progress:
    """How far these trainings are, of which some are trained at once."""
    return progress_of((study.record(variant.name, seed) for variant in variants for seed in seeds), jobs=jobs)


def missing_chains(study: Study, variants: Sequence[Variant], seeds: Sequence[int]) -> list[Chain]:
    """What is left to be trained, in chains that can be trained at once.

    Raises:
        ValueError: as `train`, of any chain, and before any is trained; or two variants have one name.
        OSError: a file cannot be read.
    """
    study.clips()
    different = dict.fromkeys(variants)
    for name in {variant.name for variant in different}:
        if len(same := [variant for variant in different if variant.name == name]) > 1:
            raise ValueError(
                f"variant {name}: is given twice, of {same[0].stage} with {list(same[0].changes)} and of "
                f"{same[1].stage} with {list(same[1].changes)}; rename one"
            )
    chains = chains_of(read_params(study.params), list(different), seeds)
    for chain in chains:
        for variant in chain.variants:
            _checked(study, variant, chain.seed)
    return [
        chain
        for chain in chains
        if not all(study.record(variant.name, chain.seed).is_file() for variant in chain.variants)
    ]


def train_chain(study: Study, progress: Progress, chain: Chain) -> None:
    """As `train`, in a new process, which it sets up by the section `compute`.

    Raises:
        ValueError: as `train`, or there is no such device any more.
        OSError: as `train`.
    """
    compute = read_section(study.params, ComputeConfig)
    set_up_machine(compute.device, compute.threads, deterministic=compute.deterministic)
    train(study, chain.variants, [chain.seed], progress=progress)


def _checked(study: Study, variant: Variant, seed: int) -> tuple[Settings, dict[str, Any]]:
    """The settings of a training, and what it is made from; what is kept of it has to be made from the same."""
    settings = settings_for(read_params(study.params), variant.changes, seed=seed)
    _refuse_chosen_epochs(study, variant, settings)
    if variant.stage != "baseline":
        require_files([study.enhancer])  # of a teacher of dark frames too, whose stage takes one
    origin = made_from(study, variant, settings)
    kept = study.record(variant.name, seed)
    if kept.is_file():
        require_origin(kept, read_json(kept, remedy=TRAIN_AGAIN), origin)
    return settings, origin


def _refuse_chosen_epochs(study: Study, variant: Variant, settings: Settings) -> None:
    sections = {"baseline": ("student",), "teacher": ("teacher",), "student": ("teacher", "student")}[variant.stage]
    chosen = [section for section in sections if settings.values[section]["select"] == "best"]
    if study.subset == "holdout" and chosen:
        raise ValueError(
            f"{chosen[0]}.select: best picks the epoch on the held-out clips, which are measured here; set it to last"
        )


def _inputs(study: Study, settings: Settings, parts: Sequence[str]) -> list[Any]:
    """What stages make their outs from: version, precision, these sections, and the files' hashes."""
    weights = [
        file
        for part in parts
        if part in ("enhancer", "teacher", "student")
        for file in weights_files(settings.values[part]["weights"])
    ]
    prepared = [study.clip_index, study.statistics, study.enhancer]
    require_files(prepared)
    files = [sha256_of(path) for path in (*prepared, *weights)]
    return [VERSION, settings.configs["compute"].precision, settings.of(*parts), files]


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _place(study: Study, name: str) -> Path:
    """A folder for the outs of one stage; decoded and enhanced frames are kept once for all."""
    folder, frames = study.root / "trained" / name, study.folder / ".work" / "frames"
    for path in (folder / ".work", frames):
        path.mkdir(parents=True, exist_ok=True)
    link = folder / ".work" / "frames"
    with contextlib.suppress(FileExistsError):
        link.symlink_to(frames.resolve(), target_is_directory=True)
    return folder


def _enhancer(study: Study, settings: Settings, seed: int) -> Path:
    """The run's enhancer, or one of the variant's own settings.

    Each seed makes its own, so that studies of other seeds may run at once; enhancer.seed makes them alike. Of one seed
    no two of those that share one are trained at once, see chains.py.
    """
    if not own_enhancer(read_params(study.params), settings):
        return study.enhancer
    frames = {key: settings.values["views"][key] for key in ("frame_size", "colour_range")}
    place = _place(study, f"enhancer-{_hash(_inputs(study, settings, ('enhancer',)), frames)}-{seed}")
    made = place / "enhancer.safetensors"
    # the stage writes its checkpoint last
    if not made.is_file():
        enhancer.run(
            study.clip_index,
            study.videos,
            made,
            place / "enhancer.png",
            place / "enhancer.json",
            config=settings.configs["enhancer"],
            views=settings.configs["views"],
            compute=settings.configs["compute"],
            device=study.device,
        )
    return made


def _trained(study: Study, variant: Variant, settings: Settings, seed: int) -> Path:
    """The checkpoint of a training."""
    machine: dict[str, Any] = {"compute": settings.configs["compute"], "device": study.device}
    views = settings.configs["views"]
    if variant.stage != "baseline":
        made_from = _inputs(study, settings, ("views", "teacher", "enhancer"))
        taught = _place(study, f"teacher-{_hash(made_from)}-{seed}")
        # the stage writes its card last
        if not (taught / "teacher.json").is_file():
            teacher.run(
                study.clip_index,
                study.videos,
                study.statistics,
                _enhancer(study, settings, seed),
                *(taught / f"teacher{end}" for end in (".safetensors", ".json", "_curve.csv", "_timings.json")),
                config=settings.configs["teacher"],
                enhancer_on=settings.configs["enhancer"].on,
                views=views,
                **machine,
            )
    if variant.stage == "teacher":
        return taught / "teacher.safetensors"
    place = _place(study, f"{variant.name}-{seed}")
    outs = [place / f"{variant.stage}{end}" for end in (".safetensors", "_curve.csv", "_timings.json")]
    dark = {"num_views": settings.configs["logits"].views, "views": views, **machine}
    if variant.stage == "baseline":
        inputs = (study.clip_index, study.videos, study.statistics)
        baseline.run(*inputs, *outs, config=settings.configs["baseline"], **dark)
        return outs[0]
    store = taught / f"logits-{_hash(settings.of('logits'))}.h5"
    if not store.is_file():
        logits.run(
            study.clip_index,
            study.videos,
            taught / "teacher.safetensors",
            store,
            config=settings.configs["logits"],
            mode=views.mode,
            **machine,
        )
    student.run(
        study.clip_index,
        study.videos,
        study.statistics,
        store,
        taught / "teacher.json",
        *outs,
        config=settings.configs["student"],
        **dark,
    )
    return outs[0]


def _answers(study: Study, variant: Variant, settings: Settings, checkpoint: Path, clips: Sequence[Clip]) -> list[int]:
    """The label that a checkpoint gives each clip."""
    config, compute = settings.configs["evaluate"], settings.configs["compute"]
    loaded = load_recogniser(checkpoint, device=study.device, kind=variant.stage, precision=compute.precision)
    names = class_names_in(read_clips(study.clip_index))
    if loaded.record.class_names != names:
        raise ValueError(f"{checkpoint}: class names: found {loaded.record.class_names}, wanted {names}; remove it")
    found = clip_logits(
        loaded,
        clips,
        study.videos,
        views=protocol_views(loaded, clips=config.clips, crops=config.crops),
        over=config.average,
        batch_size=config.batch_size,
        workers=compute.workers,
        cache=cache_policy(work_root(study.clip_index), mode=compute.cache, cache_gb=compute.cache_gb),
        device=study.device,
    )
    answers: list[int] = np.argmax(found, axis=1).tolist()
    return answers

"""A study cut into chains of trainings; chains can be trained at once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.studies.variants import Settings, Variant, settings_for


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Trainings of one seed that make files for each other, a teacher or an enhancer: one after the other."""

    seed: int
    variants: tuple[Variant, ...]

    def __str__(self) -> str:
        return f"seed {self.seed}, {' and '.join(variant.name for variant in self.variants)}"


def own_enhancer(params: Mapping[str, Any], settings: Settings) -> bool:
    """Whether a training takes another enhancer than the run's, which it has to make; `on` makes none."""
    section = settings.values["enhancer"]
    return any(section[key] != value for key, value in params["enhancer"].items() if key != "on")


def chains_of(params: Mapping[str, Any], variants: Sequence[Variant], seeds: Sequence[int]) -> list[Chain]:
    """All trainings of a study; of each seed, the chains of most trainings first, which take longest.

    Args:
        params: of params.yaml.
        variants: to train, each with every seed.
        seeds: in their order.

    Raises:
        ValueError: as in `settings_for`.
    """
    together: dict[str, list[Variant]] = {}
    for variant in variants:
        settings = settings_for(params, variant.changes, seed=0)  # which share what does not depend on the seed
        shared: Any = settings.of("views", "teacher", "enhancer")
        if variant.stage == "baseline":
            shared = variant.name
        elif own_enhancer(params, settings):
            shared = {key: value for key, value in shared["enhancer"].items() if key != "on"}
        together.setdefault(json.dumps(shared, sort_keys=True), []).append(variant)
    cut = sorted(together.values(), key=len, reverse=True)
    return [Chain(seed=seed, variants=tuple(chain)) for seed in seeds for chain in cut]

"""Measure alternatives in turn on one machine, and give their ratios with intervals."""

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from pipeline.clips.files import replacing

ROUNDS = 7
"""Rounds unless told; at least 6, below which no 95 % interval can be given."""


def in_turn(alternatives: Mapping[str, Callable[[], object]], *, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Run every alternative once a round, after one round that is not counted.

    What a machine does beside it comes and goes; within one round it meets all of them alike.

    Returns:
        Seconds of each alternative, one a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(rounds + 1):
        for name, run in alternatives.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median of the rounds' ratios, and the 95 % interval of the sign test, which asks nothing of distributions.

    Raises:
        ValueError: fewer than 6 rounds.
    """
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    rounds = len(ratios)
    # How many of the smallest and of the largest ratios together hold at most 5 %: Binomial(rounds, 1/2).
    tail = [sum(math.comb(rounds, i) for i in range(k + 1)) / 2**rounds for k in range(rounds)]
    outside = sum(share <= 0.025 for share in tail)
    if outside == 0:
        raise ValueError(f"rounds: found {rounds}, wanted at least 6 for a 95 % interval")
    low, high = ratios[outside - 1], ratios[rounds - outside]
    return {"ratio": statistics.median(ratios), "low": low, "high": high, "rounds": rounds}


_printed: list[dict[str, object]] = []


def print_ratio(name: str, found: Mapping[str, float], *, wanted: str = "") -> None:
    """One line: name, ratio, interval, and what is wanted. `write_report` writes all of them."""
    _printed.append({"name": name, **{key: found[key] for key in ("ratio", "low", "high", "rounds")}, "wanted": wanted})
    aim = f"   wanted {wanted}" if wanted else ""
    print(f"  {name:58} {found['ratio']:6.2f}  ({found['low']:.2f} - {found['high']:.2f}, n = {found['rounds']}){aim}")


def machine() -> dict[str, object]:
    """What figures depend on: processor, cores, system, versions."""
    versions = {
        name: _version(name) for name in ("torch", "torchvision", "av", "h5py", "numpy", "decord", "torchcodec")
    }
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name, version in versions.items() if version},
    }


def write_report(path: Path, report: Mapping[str, object]) -> None:
    """Write figures as JSON, with the machine's description and every ratio that was printed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(
            json.dumps({"machine": machine(), "ratios": _printed, **report}, indent=1) + "\n", encoding="utf-8"
        )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""Python and the libraries: versions, and whether they load."""

import importlib.metadata
import importlib.util
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence

from pipeline.doctor.findings import OK, PROBLEM, WARNING, Finding

DISTRIBUTION = "dl-kdd"
OLDEST_PYTHON = (3, 11)
SHOWN = ("torch", "torchvision", "av", "h5py", "dvc", "numpy")
"""Named one by one; the other requirements only where something is wrong."""
EXPORT = ("onnx", "onnxscript", "onnxruntime")
SLOW_TORCH = "2.9"
"""Its bfloat16 Conv3d is slow or wrong with some cuDNN (pytorch issues 166122, 163539, 168167)."""
LOADS = {
    "av": ("FFmpeg", "import av; print(av.ffmpeg_version_info)"),
    "h5py": ("HDF5", "import h5py; print(h5py.version.hdf5_version)"),
    "torchvision": ("torchvision", "import torchvision; print(torchvision.__version__)"),
}
"""Library -> what its print says the version of. Each loads in a process of its own: a broken wheel can end one."""
INSTALL = "pip install -c constraints.txt -e ."


def python() -> Iterator[Finding]:
    """The interpreter."""
    found = f"{platform.python_version()}, {platform.machine()}, {sys.executable}"
    if sys.version_info[:2] >= OLDEST_PYTHON:
        yield Finding(part="python", state=OK, found=found)
    else:
        remedy = "make the environment with Python 3.11 or newer: `make setup PYTHON=python3.12`"
        yield Finding(part="python", state=PROBLEM, found=found, remedy=remedy)


def packages() -> Iterator[Finding]:
    """Versions against what the project requires."""
    try:
        wanted = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        wanted = []
        yield Finding(part=DISTRIBUTION, state=WARNING, found="is not installed: no versions wanted", remedy=INSTALL)
    others = []
    oldest = _oldest(wanted)
    for name in dict.fromkeys([*SHOWN, *oldest]):
        version, bound = _version(name), oldest.get(name, "0")
        if version is None:
            yield Finding(part=name, state=PROBLEM, found=f"is not installed, wanted {bound} or newer", remedy=INSTALL)
        elif _numbers(version) < _numbers(bound):
            yield Finding(part=name, state=PROBLEM, found=f"{version}, wanted {bound} or newer", remedy=INSTALL)
        elif name in SHOWN:
            yield Finding(part=name, state=OK, found=version)
        else:
            others.append(f"{name} {version}")
    yield Finding(part="others", state=OK, found=", ".join(others) or "none")
    if (_version("torch") or "").startswith(f"{SLOW_TORCH}."):
        found = f"torch {_version('torch')}: bfloat16 3D convolutions are slow or wrong with some cuDNN"
        yield Finding(part="torch", state=WARNING, found=found, remedy="install another release of torch")


def optional() -> Iterator[Finding]:
    """What only some commands need."""
    missing = [name for name in EXPORT if importlib.util.find_spec(name) is None]
    if missing:
        found = f"{', '.join(missing)} not installed: no `dlkdd export --format onnx`"
        yield Finding(part="export", state=OK, found=found, remedy="if you need it: pip install -e '.[export]'")
    else:
        yield Finding(part="export", state=OK, found=", ".join(f"{name} {_version(name)}" for name in EXPORT))


def loading() -> Iterator[Finding]:
    """Whether the libraries with much native code load, and what they bring along."""
    for name, (what, code) in LOADS.items():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            yield Finding(part=f"{name} loads", state=OK, found=f"{what} {done.stdout.strip()}")
            continue
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        remedy = f"install it again: pip install --force-reinstall -c constraints.txt {name}"
        yield Finding(part=f"{name} loads", state=PROBLEM, found=last, remedy=remedy)


def _oldest(requirements: Sequence[str]) -> dict[str, str]:
    """The lower bounds of requirements that hold without an extra; "0" where one has none."""
    bounds = {}
    for line in requirements:
        name, _, bound = line.partition(";")[0].replace(" ", "").partition(">=")
        if "extra ==" not in line:
            bounds[name] = bound or "0"
    return bounds


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """2.15.0+cu132 -> (2, 15, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])

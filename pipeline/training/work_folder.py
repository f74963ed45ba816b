"""Where a stage keeps what it has finished, so that a stopped one goes on instead of starting over."""

import ast
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from pipeline.clips.files import replacing, sha256_of
from pipeline.clips.video import av_version

OURS = ("pipeline", "stages")

SINCE = "%Y-%m-%d %H:%M:%S UTC"

# Rows of the logit store outlive their stage: more views add to them.
LASTING = frozenset({"logits", "frames"})


def work_root(out: Path) -> Path:
    """The folder for unfinished work of the run whose files lie beside `out`."""
    override = os.environ.get("DLKDD_WORK")
    # Relative folders vanish with a temporary workspace, so the variable names one that stays.
    return Path(override) / out.resolve().parent.name if override else out.parent / ".work"


@contextlib.contextmanager
def work_folder(
    stage: str,
    *,
    out: Path,
    settings: Mapping[str, object],
    inputs: Sequence[Path],
    fresh: bool = False,
    module: str | None = None,
) -> Iterator[Path]:
    """Hold the stage's work folder, emptied where it belongs to other settings, inputs or code.

    Work folders of the run's other stages are removed, but for the rows of the logit store.

    Args:
        stage: name of the stage.
        out: an out of the stage; names the run's folder.
        settings: every parameter that the result depends on.
        inputs: files that the result depends on.
        fresh: start anew.
        module: whose code it is; None for the stage's own.

    Raises:
        ValueError: an input is missing.
    """
    root = work_root(out)
    root.mkdir(parents=True, exist_ok=True)
    folder = root / stage
    with _locked(root / f"{stage}.lock"):
        _remove_others(root, keep=stage)
        key = work_key(stage, settings=settings, inputs=inputs, module=module)
        key_file = folder / "key"
        if fresh or not key_file.is_file() or key_file.read_text(encoding="utf-8") != key:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        if not key_file.exists():
            with replacing(key_file) as partial:
                partial.write_text(key, encoding="utf-8")
        yield folder


def work_key(stage: str, *, settings: Mapping[str, object], inputs: Sequence[Path], module: str | None = None) -> str:
    """A hash of everything that a stage's result depends on: settings, inputs, code and versions."""
    for path in inputs:
        if not path.is_file():
            raise ValueError(f"{path}: no such file; run the stage that writes it, or `dvc repro`")
    torch = sys.modules.get("torch")  # a stage that does not load it depends on none of it, and starts sooner
    parts = {
        "settings": dict(settings),
        "inputs": [sha256_of(path) for path in inputs],
        "code": [sha256_of(path) for path in source_files(module or f"stages.{stage}")],
        "versions": [torch and torch.__version__, np.__version__, av_version(), sys.version],
        "threads": torch and torch.get_num_threads(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def source_files(module: str) -> list[Path]:
    """The project's own files that a module imports, directly or not, itself included.

    config.py is left out: it only names and checks parameters, and their values are hashed themselves.
    """
    base = Path(__file__).parents[2]
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = base / Path(*name.split(".")).with_suffix(".py")
        if name in found or name == "pipeline.config" or not path.is_file():
            continue
        found[name] = path
        waiting.extend(_imported(path))
    return [found[name] for name in sorted(found)]


def clean(run_folder: Path) -> int:
    """Remove all unfinished work and caches of a run; returns the bytes freed.

    Raises:
        ValueError: a stage of the run is at work.
    """
    root = work_root(run_folder / "any")
    with contextlib.ExitStack() as locks:
        for path in sorted(root.glob("*.lock")):
            lock = locks.enter_context(path.open("a+"))
            if not _try_lock(lock):
                raise ValueError(f"{path}: {_holder(lock)} is doing this stage; wait for it, or stop it, then clean")
        freed = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
        if root.exists():
            shutil.rmtree(root)
    return freed


def _imported(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return [name for name in names if name.split(".")[0] in OURS]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock; wait for another process that does the same stage, and say which."""
    with path.open("a+", encoding="utf-8") as file:
        if not _try_lock(file):
            print(
                f"{path}: {_holder(file)} is doing this stage already; waiting for it (stopped by `kill` and its "
                "number there, it keeps what it has finished)",
                file=sys.stderr,
                flush=True,
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        # On a shared disk the process may be on another machine, and a number alone may be another one's by now.
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime(SINCE, time.gmtime())}")
        file.flush()
        yield


def _holder(file: TextIO) -> str:
    """What the holder of a lock wrote into it."""
    file.seek(0)
    return file.read().strip() or "a process that has just begun"


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_others(root: Path, *, keep: str) -> None:
    for folder in root.iterdir():
        if folder.is_dir() and folder.name != keep and folder.name not in LASTING:
            with (root / f"{folder.name}.lock").open("a") as lock:
                if _try_lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)

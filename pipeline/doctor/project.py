"""The folder: git, DVC, params.yaml, and whether dvc.lock still describes what lies there. Reads only small files."""

import configparser
import hashlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import SECTION_TYPES
from pipeline.doctor.findings import OK, WARNING, Finding
from pipeline.dvc_lock import read_lock
from pipeline.mapping_file import read_yaml
from pipeline.params import read_params, read_section

HASHED_BYTES = 2**20
"""Larger files are compared by size alone."""


def parameters(params: Path) -> Iterator[Finding]:
    """Whether params.yaml can be read, every section of it."""
    if not params.is_file():
        remedy = "`dlkdd use demo` writes it; --params names another one"
        yield Finding(part="parameters", state=WARNING, found=f"no {params}", remedy=remedy)
        return
    runs = read_params(params)["runs"]
    for kind in SECTION_TYPES.values():
        read_section(params, kind)
    yield Finding(part="parameters", state=OK, found=f"{params}: runs {', '.join(runs)}")


def git(folder: Path) -> Iterator[Finding]:
    """Whether the folder lies in a repository, and what differs from its commit."""
    if shutil.which("git") is None:
        yield Finding(part="git", state=WARNING, found="no git", remedy="install it: results then name their commit")
        return
    inside = _git(folder, "rev-parse", "--short", "HEAD")
    if inside.returncode != 0:
        said = (inside.stderr.strip().splitlines() or ["no repository"])[0]
        remedy = "work in a clone of the repository, with a commit: `dvc exp` needs one"
        yield Finding(part="git", state=WARNING, found=said, remedy=remedy)
        return
    changed = len(_git(folder, "status", "--porcelain").stdout.splitlines())
    more = f", {changed} files changed since" if changed else ""
    yield Finding(part="git", state=OK, found=f"commit {inside.stdout.strip()}{more}")


def dvc(folder: Path) -> Iterator[Finding]:
    """Whether DVC knows the folder, and tells nobody of it."""
    settings = folder / ".dvc" / "config"
    if not (folder / ".dvc").is_dir():
        remedy = "work in the repository's root: stages run by `dvc repro` there"
        yield Finding(part="dvc", state=WARNING, found=f"no .dvc in {folder.resolve()}", remedy=remedy)
        return
    config = configparser.ConfigParser(interpolation=None)
    config.read([settings, settings.with_name("config.local")], encoding="utf-8")  # the later one wins
    if config.get("core", "analytics", fallback="true").lower() in ("false", "0", "no", "off"):
        yield Finding(part="dvc", state=OK, found="analytics off")
    else:
        remedy = "dvc config core.analytics false"
        yield Finding(part="dvc", state=WARNING, found="analytics on: DVC sends what is run", remedy=remedy)


def dvc_lock(folder: Path) -> Iterator[Finding]:
    """Whether the files and parameters that finished stages used are still the same. Larger files by size alone.

    Raises:
        ValueError: dvc.lock is no YAML.
    """
    path = folder / "dvc.lock"
    if not path.is_file():
        yield Finding(
            part="dvc.lock", state=OK, found="none: no stage has finished here", remedy="`dvc repro` runs all"
        )
        return
    stages = read_lock(path)
    stale: dict[str, str] = {}
    for name, stage in stages.items():
        reason = next(_differences(folder, stage), None)
        if reason is not None:
            stale[name] = reason
    if stale:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(stale.items())[:4])
        found = f"{len(stale)} of {len(stages)} stages are out of date: {listed}"
        remedy = "`dvc repro` brings them up to date; `dvc checkout` brings back outputs that were removed"
        yield Finding(part="dvc.lock", state=WARNING, found=found, remedy=remedy)
    else:
        yield Finding(part="dvc.lock", state=OK, found=f"{len(stages)} finished stages, as far as small files tell")


def _git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _differences(folder: Path, stage: Mapping[str, Any]) -> Iterator[str]:
    """What a finished stage used or wrote and what is no longer so."""
    for entry in (*stage.get("deps", []), *stage.get("outs", [])):
        reason = _difference(folder / entry["path"], entry)
        if reason is not None:
            yield f"{entry['path']} {reason}"
    for file, values in stage.get("params", {}).items():
        now = read_yaml(folder / file, remedy="mend it, or take it from git") if (folder / file).is_file() else {}
        for key, value in values.items():
            if _lookup(now, key) != value:
                yield f"{key} was {value}"


def _difference(path: Path, entry: Mapping[str, Any]) -> str | None:
    if not path.exists():
        return "is gone"
    if path.is_dir():
        return None
    if path.stat().st_size != entry.get("size"):
        return "changed"
    # "hash: md5" says that the md5 is that of the bytes; earlier releases of DVC changed line ends first.
    small = entry.get("hash") == "md5" and path.stat().st_size <= HASHED_BYTES
    return "changed" if small and hashlib.md5(path.read_bytes()).hexdigest() != entry.get("md5") else None


def _lookup(values: Any, key: str) -> Any:
    """`student.lr` in nested mappings; a whole section by its own name."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values

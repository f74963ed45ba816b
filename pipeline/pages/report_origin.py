"""What a run was made with: commit, files and their hashes, parameters, versions."""

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.clips.files import sha256_of
from pipeline.pages.blocks import Block, Code, Facts, Folded, Row, Table, Text
from pipeline.pages.run_files import FILES, RunFiles
from pipeline.version import VERSION

PACKAGES = ("torch", "torchvision", "av", "numpy", "h5py", "dvc")


def origin(run: RunFiles, params: Path) -> Iterator[Block]:
    """Commit, versions, files, protocol and parameters.

    Args:
        run: its folder.
        params: params.yaml; dvc.lock is looked for beside it.
    """
    yield Facts(
        items=[
            ("dl-kdd", VERSION),
            ("Python", platform.python_version()),
            *((package, _version(package)) for package in PACKAGES),
        ]
    )
    yield Text(text=f"Commit {_commit(params.parent)}. Commit and versions are those that this page was written with.")
    if run.missing:
        yield Text(tone="note", text=f"Not there, and so not shown: {', '.join(run.missing)}.")
    yield _files(run, params.parent / "dvc.lock")
    if protocol := run.details.get("protocol"):
        text = json.dumps(protocol, indent=1, sort_keys=True, ensure_ascii=False)
        yield Folded(title="Protocol of the test, from the checkpoints", blocks=[Code(label="Protocol", text=text)])
    if params.is_file():
        text = params.read_text(encoding="utf-8")
        yield Folded(title=f"Parameters ({params.name})", blocks=[Code(label="Parameters", text=text)])


def _files(run: RunFiles, lock: Path) -> Table:
    locked = _locked_md5s(lock)
    rows: list[Row] = []
    for name in FILES:
        path = run.folder / name
        if not path.is_file():
            continue
        # dvc.lock names outs relative to the repository's root.
        named = {md5 for out, md5 in locked.items() if (lock.parent / out).resolve() == path.resolve()}
        known = "not in it" if not named else "the same" if _md5(path) in named else "another"
        rows.append([name, str(path.stat().st_size), sha256_of(path), known if locked else "no dvc.lock"])
    headers = ["file", "bytes", "sha256", "in dvc.lock"]
    return Table(caption=f"Files of {run.name}", headers=headers, rows=rows, numeric=frozenset({1}))


def _locked_md5s(lock: Path) -> dict[str, str]:
    """md5 by path of every out that dvc.lock names."""
    if not lock.is_file():
        return {}
    try:
        content: dict[str, Any] = YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8")) or {}
    except YAMLError as error:
        raise ValueError(f"{lock}: is no YAML ({error}); run `dvc repro` again") from error
    stages = content.get("stages", {}).values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", []) if "md5" in out}


def _md5(path: Path) -> str:
    """As DVC names a file's content; nothing here relies on it being hard to forge."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _commit(folder: Path) -> str:
    """The commit that is checked out, and whether files that git knows differ from it."""
    git = shutil.which("git")
    if git is None:
        return "git is not installed"
    asked = subprocess.run([git, "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        return "not in a git repository"
    changed = subprocess.run(
        [git, "-C", folder, "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() + (", with changed files" if changed.stdout.strip() else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

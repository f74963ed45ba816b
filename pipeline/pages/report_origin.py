"""What a run was made with: versions, files and their hashes, parameters, commit."""

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.clips.files import sha256_of
from pipeline.dvc_lock import read_lock
from pipeline.mapping_file import read_yaml
from pipeline.pages.blocks import Block, Code, Facts, Folded, Row, Table, Text
from pipeline.pages.run_files import FILES, RunFiles
from pipeline.version import VERSION

PACKAGES = ("torch", "torchvision", "av", "numpy", "h5py", "dvc")
SECTIONS = ("render", "prepare", "views", "enhancer", "teacher", "logits", "student", "evaluate")
KEYS = {"compute": ("device", "threads", "deterministic", "precision")}
INPUT_KEYS = ("classes", "class_ids")
"""What a page without surroundings shows of params.yaml: values that change a result, and not where the videos lie."""


def origin(run: RunFiles, params: Path, *, surroundings: bool) -> Iterator[Block]:
    """Commit, versions, files, protocol and parameters.

    Without surroundings only what a stage can name as its inputs is shown beside the commit: no dvc.lock, which is
    written anew while stages run, and of params.yaml the run's own values, so that a comment or another run changes
    nothing.

    Args:
        run: its folder.
        params: params.yaml; dvc.lock is looked for beside it.
        surroundings: also hold the files against dvc.lock, and show params.yaml as it stands.
    """
    yield Facts(
        items=[
            ("dl-kdd", VERSION),
            ("Python", platform.python_version()),
            *((package, _version(package)) for package in PACKAGES),
        ]
    )
    yield Text(
        text=f"Commit {commit_of(params.parent)}. Commit and versions are those that this page was written with."
    )
    if run.missing:
        yield Text(tone="note", text=f"Not there, and so not shown: {', '.join(run.missing)}.")
    yield _files(run, params.parent / "dvc.lock" if surroundings else None)
    if protocol := run.details.get("protocol"):
        text = json.dumps(protocol, indent=1, sort_keys=True, ensure_ascii=False)
        yield Folded(title="Protocol of the test, from the checkpoints", blocks=[Code(label="Protocol", text=text)])
    if params.is_file():
        text = params.read_text(encoding="utf-8") if surroundings else _own_values(params, run.name)
        yield Folded(title=f"Parameters ({params.name})", blocks=[Code(label="Parameters", text=text)])


def _own_values(params: Path, run: str) -> str:
    """The values of params.yaml that a run's results depend on, as json."""
    content = read_yaml(params, remedy="mend it, or write it anew with `dlkdd use`")
    shown: dict[str, Any] = {section: content[section] for section in SECTIONS if section in content}
    picked: dict[str, tuple[Any, tuple[str, ...]]] = {
        section: (content.get(section), keys) for section, keys in KEYS.items()
    }
    picked["inputs"] = ((content.get("inputs") or {}).get(run), INPUT_KEYS)
    for section, (values, keys) in picked.items():
        if values:
            shown[section] = {key: values[key] for key in keys if key in values}
    return json.dumps(shown, indent=1, sort_keys=True, ensure_ascii=False)


def _files(run: RunFiles, lock: Path | None) -> Table:
    locked = {} if lock is None else _locked_md5s(lock)
    rows: list[Row] = []
    for name in FILES:
        path = run.folder / name
        if not path.is_file():
            continue
        row = [name, str(path.stat().st_size), sha256_of(path)]
        if lock is not None:
            # dvc.lock names outs relative to the repository's root.
            named = {md5 for out, md5 in locked.items() if (lock.parent / out).resolve() == path.resolve()}
            known = "not in it" if not named else "the same" if _md5(path) in named else "another"
            row.append(known if lock.is_file() else "no dvc.lock")
        rows.append([*row])
    headers = ["file", "bytes", "sha256", *(["in dvc.lock"] if lock is not None else [])]
    return Table(caption=f"Files of {run.name}", headers=headers, rows=rows, numeric=frozenset({1}))


def _locked_md5s(lock: Path) -> dict[str, str]:
    """md5 by path of every out that dvc.lock names."""
    if not lock.is_file():
        return {}
    stages = read_lock(lock).values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", []) if "md5" in out}


def _md5(path: Path) -> str:
    """As DVC names a file's content; nothing here relies on it being hard to forge."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def commit_of(folder: Path) -> str:
    """The commit that is checked out, and whether files that git knows differ from it, but for dvc.lock and docs/."""
    git = shutil.which("git")
    if git is None:
        return "git is not installed"
    asked = subprocess.run([git, "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        return "not in a git repository"
    changed = subprocess.run(
        [git, "-C", folder, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!docs"],
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

"""Which videos a dataset holds, of which class, subset and scene: from a folder, or from a run's clips.csv."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.clips.clip_index import read_clips
from pipeline.clips.lists import SUBSET_FOLDERS, has_video_suffix, scene_of


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A video of a dataset, as a folder or clips.csv names it."""

    id: str
    """Its path relative to the root, with forward slashes."""
    class_name: str
    """Empty where nothing says."""
    subset: str
    """Empty where nothing says."""
    scene: str
    """Where it was filmed, by its name; the id itself where the name does not say."""
    sha256: str | None = None
    """Of the file when clips.csv was written; None without one."""


def entries_of_folder(root: Path, *, scene_pattern: str) -> tuple[list[Entry], dict[str, int]]:
    """All videos below a folder, sorted by path, and the number of other files by suffix; hidden ones do not count.

    `train`, `test` and the like right below the root are subsets; the next folder is the class. For the
    scene see `scene_of`.

    Raises:
        ValueError: no such folder, or it holds no video.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; wanted the root of a dataset's videos, or a run's clips.csv")
    entries, others = [], Counter[str]()
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") for part in parts) or not path.is_file():
            continue
        if not has_video_suffix(path.name):
            others[path.suffix.lower() or "no suffix"] += 1
            continue
        below = parts[1:] if len(parts) > 1 and parts[0].lower() in SUBSET_FOLDERS else parts
        clip_id = "/".join(parts)
        entries.append(
            Entry(
                id=clip_id,
                class_name=below[0] if len(below) > 1 else "",
                subset=parts[0] if len(below) < len(parts) else "",
                scene=scene_of(clip_id, scene_pattern),
            )
        )
    if not entries:
        found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items())) or "nothing"
        raise ValueError(f"{root}: holds no video (found {found}); name the folder that the class folders lie in")
    return entries, dict(sorted(others.items()))


def entries_of_clips(clip_index: Path) -> list[Entry]:
    """The clips of a run's clips.csv in the order of their ids.

    Raises:
        ValueError: the file is missing or damaged.
    """
    clips = sorted(read_clips(clip_index), key=lambda clip: (clip.id, clip.subset))
    return [
        Entry(id=clip.id, class_name=clip.class_name, subset=clip.subset, scene=clip.scene, sha256=clip.sha256)
        for clip in clips
    ]

"""Split lists: which clips a dataset has, what they show, and which are for training and which for the test."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.clips.video import VIDEO_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of a list."""

    path: str
    """As the list names it: relative to the videos' root, with forward slashes."""
    label: int | None
    """Class id where the list gives numbers."""
    class_name: str | None
    """Class name where the list gives names."""
    place: str
    """Where it stands, for messages: file and line."""


def read_list(path: Path, *, videos: Path) -> list[Listed]:
    """Read a split list, or take a folder of class folders for one.

    Three forms are known: ARID's tab form (`index TAB class id TAB path`), a csv with a header that holds
    `path` and `label` (a class id or name), and a folder below the videos' root whose folders are classes.

    Raises:
        ValueError: the list is missing or empty, or a line is of no known form; names file and line.
    """
    if path.is_dir() and not path.resolve().is_relative_to(videos.resolve()):
        raise ValueError(f"{path}: a folder of class folders must lie below the videos' root {videos}; check --videos")
    if path.is_dir():
        listed = _read_folder(path, videos=videos)
    elif not path.is_file():
        raise ValueError(f"{path}: no such list; check --train and --test of `dlkdd use`")
    else:
        lines = _read_text(path).splitlines()
        filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        if filled and "\t" in filled[0][1]:
            listed = [_tab_line(path, number, line) for number, line in filled]
        else:
            listed = _read_csv(path, filled)
    if not listed:
        raise ValueError(f"{path}: the list is empty; wanted one clip a line")
    for line in listed:
        _check_relative(line)
    return listed


def read_class_names(path: Path) -> list[str]:
    """Read a table of `id TAB name` or `id,name` lines whose ids run from 0.

    Raises:
        ValueError: a line of another form, a doubled or missing id.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such table of classes")
    names: dict[int, str] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\d+)[\t, ]\s*(.+?)\s*", line)
        if match is None:
            raise ValueError(f"{path}:{number}: found '{line}', wanted `id TAB class name`")
        if int(match[1]) in names:
            raise ValueError(f"{path}:{number}: class id {match[1]} stands twice; give every class its own id")
        names[int(match[1])] = match[2]
    if sorted(names) != list(range(len(names))) or not names:
        raise ValueError(f"{path}: found class ids {sorted(names)}, wanted 0, 1, 2, ... without a gap")
    return [names[label] for label in sorted(names)]


def class_names_of(lists: Iterable[Sequence[Listed]]) -> list[str]:
    """Class names in sorted order, for lists that give names instead of ids.

    Raises:
        ValueError: a line gives only an id.
    """
    found: set[str] = set()
    for line in (line for listed in lists for line in listed):
        if line.class_name is None:
            raise ValueError(f"{line.place}: gives class id {line.label} without a name; add --classes TABLE")
        found.add(line.class_name)
    return sorted(found)


def label_of(line: Listed, class_names: Sequence[str]) -> int:
    """The class index of a line.

    Raises:
        ValueError: the label lies outside the classes.
    """
    if line.label is not None:
        if not 0 <= line.label < len(class_names):
            raise ValueError(
                f"{line.place}: class id {line.label} of {line.path} lies outside 0 to {len(class_names) - 1}; "
                "mend the list or the table of classes"
            )
        return line.label
    if line.class_name is None or line.class_name not in class_names:
        raise ValueError(
            f"{line.place}: class '{line.class_name}' of {line.path} is none of {', '.join(class_names)}; "
            "mend the list or the table of classes"
        )
    return list(class_names).index(line.class_name)


def find_video(videos: Path, listed: str) -> str:
    """The path below the root that a list means; ARID's lists say .avi where the files are .mp4.

    Raises:
        ValueError: no such video, or several that differ in the suffix alone.
    """
    if (videos / listed).is_file():
        return listed
    stem = PurePosixPath(listed)
    candidates = [stem.with_suffix(suffix) for suffix in sorted(VIDEO_SUFFIXES)]
    found = [str(candidate) for candidate in candidates if (videos / candidate).is_file()]
    if len(found) > 1:
        raise ValueError(f"{videos / listed}: missing, and {', '.join(found)} could all be meant; name one in the list")
    if not found:
        raise ValueError(f"{videos / listed}: no such file, nor with another video suffix; check the videos' root")
    return found[0]


def scene_of(clip_id: str, pattern: str) -> str:
    """The scene a clip was filmed in: the pattern's groups joined, or the clip itself where it does not match."""
    match = re.search(pattern, clip_id) if pattern else None
    if match is None:
        return clip_id
    return "/".join(match.groups()) or match[0]


def choose_scenes(
    scenes: Sequence[str], labels: Sequence[int | str | None], *, order: Sequence[str], count: int, parameter: str
) -> set[str]:
    """Choose whole scenes such that every class keeps at least one clip outside them.

    Args:
        scenes: scene of each clip.
        labels: class of each clip.
        order: the scenes in the order to try.
        count: how many to choose.
        parameter: what asked for them, for the message.

    Raises:
        ValueError: fewer than `count` can be had.
    """
    left: dict[int | str | None, int] = defaultdict(int)
    by_scene: dict[str, list[int | str | None]] = defaultdict(list)
    for scene, label in zip(scenes, labels, strict=True):
        left[label] += 1
        by_scene[scene].append(label)
    chosen: set[str] = set()
    for scene in order:
        if len(chosen) == count:
            break
        taken = {label: by_scene[scene].count(label) for label in set(by_scene[scene])}
        if all(left[label] > number for label, number in taken.items()):
            chosen.add(scene)
            for label, number in taken.items():
                left[label] -= number
    if len(chosen) < count:
        raise ValueError(
            f"{parameter}: {count} scenes wanted, but only {len(chosen)} of {len(by_scene)} can be set aside "
            "while every class keeps a training clip; lower it"
        )
    return chosen


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text ({error}); save it as UTF-8") from error


def _tab_line(path: Path, number: int, line: str) -> Listed:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 3 or not fields[1].lstrip("-").isdigit() or not fields[2]:
        raise ValueError(f"{path}:{number}: found '{line.strip()}', wanted `index TAB class id TAB path`")
    return Listed(path=fields[2], label=int(fields[1]), class_name=None, place=f"{path}:{number}")


def _read_csv(path: Path, filled: Sequence[tuple[int, str]]) -> list[Listed]:
    rows = list(csv.reader([line for _, line in filled]))
    if not rows:
        return []
    header = [field.strip().lower() for field in rows[0]]
    if "path" not in header or "label" not in header:
        raise ValueError(
            f"{path}:{filled[0][0]}: found the header '{','.join(rows[0])}', wanted `path,label`, "
            "or ARID's `index TAB class id TAB path` without a header"
        )
    listed = []
    for (number, line), row in zip(filled[1:], rows[1:], strict=True):
        if len(row) != len(header):
            raise ValueError(f"{path}:{number}: found '{line}', wanted {len(header)} fields as in the header")
        value = row[header.index("label")].strip()
        is_id = re.fullmatch(r"-?\d+", value) is not None
        listed.append(
            Listed(
                path=row[header.index("path")].strip(),
                label=int(value) if is_id else None,
                class_name=None if is_id else value,
                place=f"{path}:{number}",
            )
        )
    return listed


def _read_folder(path: Path, *, videos: Path) -> list[Listed]:
    listed = []
    for file in sorted(path.glob("*/**/*")):
        if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file():
            class_name = file.relative_to(path).parts[0]
            relative = file.relative_to(videos).as_posix()
            listed.append(Listed(path=relative, label=None, class_name=class_name, place=str(path)))
    return listed


def _check_relative(line: Listed) -> None:
    parts = PurePosixPath(line.path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in line.path or "\0" in line.path:
        raise ValueError(
            f"{line.place}: path '{line.path}' leaves the videos' root; wanted a path relative to it without '..'"
        )

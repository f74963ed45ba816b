"""Split lists: which clips a dataset has, what they show, and which are for training and which for the test."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.clips.clip_index import UNLABELLED, leaves_root
from pipeline.clips.video import VIDEO_SUFFIXES

# Column names of the csv lists in use, in lower case; the first one found is taken.
PATH_COLUMNS = ("path", "video")
LABEL_COLUMNS = ("label", "classid", "class")

TAB_FORM = "`index TAB class id TAB path`"
FILE_FORM = "`folder/file.mp4 label`"
FRAME_FORM = "`folder/name frames label`"

# Digits of ASCII alone, and few enough for 64 bits: int() also reads other scripts' and refuses thousands of them.
ID = re.compile(r"-?[0-9]{1,18}")
COUNT = re.compile(r"[0-9]{1,18}")

NAME_BYTES, PATH_BYTES = 255, 3000  # Linux takes 4095 bytes of a path, and the videos' root needs some
SHOWN = 200  # characters of a line that a message repeats

SUBSET_FOLDERS = frozenset({"train", "training", "holdout", "val", "valid", "validate", "validation", "test"})
"""Folders right below the videos' root that name a subset, in lower case; any other folder names a class."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of a list."""

    path: str
    """As the list names it: relative to the videos' root, with forward slashes."""
    label: int | None
    """Class id where the list gives numbers."""
    class_name: str | None
    """Class name where the list gives names. Neither id nor name: unlabelled."""
    num_frames: int | None
    """How many frames the list says it has; None where it says nothing."""
    place: str
    """Where it stands, for messages: file and line."""


def read_list(path: Path, *, videos: Path) -> list[Listed]:
    """Read a split list, or take a folder of class folders for one.

    The first line decides the form of the whole list:

    * ARID: `index TAB class id TAB path`;
    * csv with a header that names the path (`path`, `Video`) and the class id or name (`label`, `ClassID`, `class`),
      in any case and order; without such a column, or with an empty field, a clip is unlabelled;
    * Dark-48: `folder/file.mp4 label`, split at the last space;
    * Dark-48's frame lists: `folder/name frames label`, the name without a suffix.

    Or the list is a folder below the videos' root whose folders are classes.

    Raises:
        ValueError: the list is missing or empty, is ARID's third one, or a line is not of the list's form; names
            file and line.
    """
    _refuse_surplus(path)
    if path.is_dir() and not path.resolve().is_relative_to(videos.resolve()):
        raise ValueError(f"{path}: a folder of class folders must lie below the videos' root {videos}; check --videos")
    if path.is_dir():
        listed = _read_folder(path, videos=videos)
    elif not path.is_file():
        raise ValueError(f"{path}: no such list; check --train, --test and --lists of `dlkdd use`")
    else:
        # Not splitlines(): it also breaks at characters that a file's name may hold.
        lines = _read_text(path).split("\n")
        listed = _read_lines(path, [(number, line) for number, line in enumerate(lines, start=1) if line.strip()])
    if not listed:
        raise ValueError(f"{path}: the list is empty; wanted one clip a line")
    for line in listed:
        _check_relative(line)
    return listed


def read_class_table(path: Path) -> tuple[list[int], list[str]]:
    """Read a table of `id TAB name` or `id,name` lines. The ids may start anywhere and have gaps: UG2+ has 5 to 10.

    Returns:
        The ids in ascending order, and their names.

    Raises:
        ValueError: no line at all, a line of another form, a doubled id or name.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such table of classes; wanted lines of `id TAB class name`")
    names: dict[int, str] = {}
    seen: set[str] = set()
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        match = re.match(r"([0-9]{1,18})[\t, ]", line.lstrip())
        name = line.lstrip()[match.end() :].strip() if match is not None else ""
        if match is None or not name:
            raise ValueError(f"{path}:{number}: found '{_shown(line)}', wanted `id TAB class name`")
        if int(match[1]) in names:
            raise ValueError(f"{path}:{number}: class id {match[1]} stands twice; give every class its own id")
        if name in seen:
            raise ValueError(f"{path}:{number}: class '{_shown(name)}' stands twice; give every class its own name")
        names[int(match[1])] = name
        seen.add(name)
    if not names:
        raise ValueError(f"{path}: the table is empty; wanted lines of `id TAB class name`")
    ids = sorted(names)
    return ids, [names[class_id] for class_id in ids]


def class_names_of(lists: Iterable[Sequence[Listed]]) -> list[str]:
    """Class names in sorted order, for lists that give names instead of ids; unlabelled lines add none.

    Raises:
        ValueError: a line gives only an id.
    """
    found: set[str] = set()
    for line in (line for listed in lists for line in listed):
        if line.label is not None:
            raise ValueError(f"{line.place}: gives class id {line.label} without a name; add --classes TABLE")
        if line.class_name is not None:
            found.add(line.class_name)
    return sorted(found)


def check_labelled(listed: Iterable[Listed]) -> None:
    """Refuse a training list with an unlabelled line.

    Raises:
        ValueError: names the first one.
    """
    for line in listed:
        if line.label is None and line.class_name is None:
            raise ValueError(f"{line.place}: {line.path} has no label, which only a test clip may lack; add its class")


def label_of(line: Listed, class_names: Sequence[str], class_ids: Sequence[int]) -> int:
    """The class index of a line: the position of its class id or class name, or -1 if it is unlabelled.

    Args:
        line: of a list.
        class_names: by class index.
        class_ids: what lists with numbers call those classes.

    Raises:
        ValueError: the class is none of them.
    """
    if line.label is not None:
        if line.label not in class_ids:
            known = ", ".join(str(class_id) for class_id in class_ids)
            raise ValueError(
                f"{line.place}: class id {line.label} of {line.path} is none of {known}; "
                "mend the list or the table of classes"
            )
        return list(class_ids).index(line.label)
    if line.class_name is None:
        return UNLABELLED
    if line.class_name not in class_names:
        raise ValueError(
            f"{line.place}: class '{line.class_name}' of {line.path} is none of {', '.join(class_names)}; "
            "mend the list or the table of classes"
        )
    return list(class_names).index(line.class_name)


def find_video(videos: Path, listed: str) -> str:
    """The path below the root that a list means.

    ARID's lists say .avi where the files are .mp4, so a known suffix is swapped; frame lists give names without one,
    which may hold dots, so any other name gets each suffix appended.

    Raises:
        ValueError: no such video, or several that differ in the suffix alone.
    """
    if (videos / listed).is_file():
        return listed
    stem = str(PurePosixPath(listed).with_suffix("")) if has_video_suffix(listed) else listed
    found = [stem + suffix for suffix in sorted(VIDEO_SUFFIXES) if (videos / (stem + suffix)).is_file()]
    if len(found) > 1:
        raise ValueError(f"{videos / listed}: missing, and {', '.join(found)} could all be meant; name one in the list")
    if not found:
        raise ValueError(f"{videos / listed}: no such file, nor with another video suffix; check the videos' root")
    return found[0]


def has_video_suffix(listed: str) -> bool:
    """Whether a listed name ends as a video file does, rather than without a suffix."""
    return PurePosixPath(listed).suffix.lower() in VIDEO_SUFFIXES


def below_subset(clip_id: str) -> str:
    """A clip's path without a first folder that names a subset above the class: Run/a.mp4 of train/Run/a.mp4."""
    first, _, rest = clip_id.partition("/")
    return rest if "/" in rest and first.lower() in SUBSET_FOLDERS else clip_id


def scene_of(clip_id: str, pattern: str) -> str:
    """The scene a clip was filmed in: the pattern's groups joined, or the clip itself where it does not match.

    The pattern sees the path below a folder such as `train`: `train/Run/Run_1_2.mp4` and `test/Run/Run_1_3.mp4` share
    a scene. A group that took no part in the match is left out.
    """
    match = re.search(pattern, below_subset(clip_id)) if pattern else None
    if match is None:
        return clip_id
    return "/".join(group for group in match.groups() if group is not None) or match[0]


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


def _refuse_surplus(path: Path) -> None:
    if re.search(r"arid_split\d+_others?\.txt$", path.name, re.IGNORECASE):
        raise ValueError(
            f"{path}: this third list of ARID is neither for training nor for the test nor a validation set: it holds "
            "the surplus clips of scenes that have more than their share, some of them scenes of the test; take "
            "the split's _train.txt and _test.txt"
        )


def _read_lines(path: Path, filled: Sequence[tuple[int, str]]) -> list[Listed]:
    if not filled:
        return []
    number, first = filled[0]
    if "\t" in first:
        return [_tab_line(path, *each) for each in filled]
    header = [field.strip().lower() for field in _csv_fields(path, number, first)]
    if any(name in header for name in PATH_COLUMNS):
        return _read_csv(path, header, filled)
    for form in (FILE_FORM, FRAME_FORM):
        if _spaced_fields(first, form) is not None:
            return [_spaced_line(path, *each, form) for each in filled]
    raise ValueError(
        f"{path}:{number}: found '{_shown(first)}', wanted {TAB_FORM}, a csv header with `path` or `Video` (and "
        f"`label`, `ClassID` or `class`), {FILE_FORM} or {FRAME_FORM}"
    )


def _tab_line(path: Path, number: int, line: str) -> Listed:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 3 or ID.fullmatch(fields[1]) is None or not fields[2]:
        raise ValueError(f"{path}:{number}: found '{_shown(line)}', wanted {TAB_FORM}")
    return Listed(path=fields[2], label=int(fields[1]), class_name=None, num_frames=None, place=f"{path}:{number}")


def _spaced_fields(line: str, form: str) -> tuple[str, int | None, int] | None:
    """Path, number of frames and label, split from the right, since file names may hold spaces."""
    # Not one regular expression: on a long line of spaces it would try every way to share them out.
    name, *numbers = line.strip().rsplit(None, 2 if form == FRAME_FORM else 1)
    if not numbers or ID.fullmatch(numbers[-1]) is None:
        return None
    if form == FILE_FORM:
        return (name, None, int(numbers[0])) if has_video_suffix(name) else None
    if len(numbers) < 2 or COUNT.fullmatch(numbers[0]) is None:
        return None
    return name, int(numbers[0]), int(numbers[1])


def _spaced_line(path: Path, number: int, line: str, form: str) -> Listed:
    fields = _spaced_fields(line, form)
    if fields is None:
        raise ValueError(f"{path}:{number}: found '{_shown(line)}', wanted {form} as in the first line")
    name, num_frames, label = fields
    return Listed(path=name, label=label, class_name=None, num_frames=num_frames, place=f"{path}:{number}")


def _read_csv(path: Path, header: Sequence[str], filled: Sequence[tuple[int, str]]) -> list[Listed]:
    path_column = next(header.index(name) for name in PATH_COLUMNS if name in header)
    label_column = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    listed = []
    for number, line in filled[1:]:
        row = _csv_fields(path, number, line)
        if len(row) != len(header) or not row[path_column].strip():
            raise ValueError(
                f"{path}:{number}: found '{_shown(line)}', wanted {len(header)} fields as in the header, and a path"
            )
        value = "" if label_column is None else row[label_column].strip()
        is_id = ID.fullmatch(value) is not None
        if not is_id and re.fullmatch(r"-?[0-9]+", value) is not None:
            raise ValueError(f"{path}:{number}: found class id {_shown(value)}, wanted one of at most 18 digits")
        listed.append(
            Listed(
                path=row[path_column].strip(),
                label=int(value) if is_id else None,
                class_name=None if is_id or not value else value,
                num_frames=None,
                place=f"{path}:{number}",
            )
        )
    return listed


def _csv_fields(path: Path, number: int, line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error as error:
        raise ValueError(f"{path}:{number}: found '{_shown(line)}', no line of csv ({error}); mend the list") from error


def _shown(line: str) -> str:
    """As much of a line as a message should hold."""
    text = line.strip()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..., {len(text)} characters"


def _read_folder(path: Path, *, videos: Path) -> list[Listed]:
    listed = []
    for file in sorted(path.glob("*/**/*")):
        if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file():
            class_name = file.relative_to(path).parts[0]
            relative = file.relative_to(videos).as_posix()
            listed.append(Listed(path=relative, label=None, class_name=class_name, num_frames=None, place=str(path)))
    return listed


def _check_relative(line: Listed) -> None:
    if leaves_root(line.path):
        raise ValueError(
            f"{line.place}: path '{_shown(line.path)}' leaves the videos' root; wanted a path relative to it without "
            "'..'"
        )
    # What a folder holds may be named by any bytes: those that are no text come as lone surrogates.
    if not line.path.isascii() and any("\ud800" <= letter <= "\udfff" for letter in line.path):
        raise ValueError(f"{line.place}: found a file named {line.path!a}, which is no UTF-8; rename it")
    if "\r" in line.path:  # clips.csv would break there
        raise ValueError(f"{line.place}: found a file named {line.path!a}, with a line break in its name; rename it")
    whole = line.path.encode()
    if len(whole) > PATH_BYTES or any(len(name) > NAME_BYTES for name in whole.split(b"/")):
        raise ValueError(
            f"{line.place}: path '{_shown(line.path)}' is longer than a file's can be; wanted at most {NAME_BYTES} "
            f"bytes a name and {PATH_BYTES} in all"
        )

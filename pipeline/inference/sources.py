"""What the user names to the videos that are meant: files, folders, patterns, lists."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.clips.lists import find_video, has_video_suffix, read_list
from pipeline.clips.video_files import find_videos

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst", ".list")
STANDARD_INPUT = "-"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A video file to predict."""

    path: Path
    name: str
    """As it is shown: as the user gave it, or below the folder that the user gave."""
    inside: Path
    """Its path below the folder or list that named it; the file's name alone for a single one."""


def find_sources(given: Sequence[str], *, root: Path | None, standard_input: Iterable[str]) -> Iterator[Source]:
    """The videos that are meant, in the order given; all but the lines of standard input are found before the first.

    A folder means the videos below it; a name with `*`, `?` or `[` that is no file is a pattern, in which `**` stands
    for any folders; a file that ends in one of `LIST_SUFFIXES` is a list of paths, one a line, or a split list as
    training takes them. Whether a listed file exists shows when it is read.

    Args:
        given: files, folders, patterns, lists, or `-` for a list on standard input.
        root: folder that paths in lists are relative to; None for the list's own folder, and for the current one
            where the list comes on standard input.
        standard_input: its lines.

    Raises:
        ValueError: nothing is found under a name, or a list is unreadable.
    """
    found = [
        _from_lines(standard_input, root or Path()) if each == STANDARD_INPUT else iter(_expand(each, root))
        for each in given
    ]
    return (source for sources in found for source in sources)


def _expand(given: str, root: Path | None) -> list[Source]:
    path = Path(given)
    if path.is_dir():
        return [Source(path=each, name=str(each), inside=each.relative_to(path)) for each in find_videos(path)]
    if path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        return list(_from_list(path, path.parent if root is None else root))
    if not path.exists() and glob.has_magic(given):
        # A pattern that starts with a folder keeps what follows it, so that overlays do not fall on each other.
        fixed = Path(*_before_magic(path))
        files = sorted(Path(each) for each in glob.glob(given, recursive=True) if Path(each).is_file())
        if not files:
            raise ValueError(f"{given}: no file matches this pattern; check it, and quote it in the shell")
        return [Source(path=each, name=str(each), inside=each.relative_to(fixed)) for each in files]
    if not path.exists():
        raise ValueError(f"{given}: no such file, folder or pattern; check the path")
    return [Source(path=path, name=given, inside=Path(path.name))]


def _before_magic(path: Path) -> Iterator[str]:
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _from_list(path: Path, root: Path) -> Iterator[Source]:
    try:
        # Not splitlines(): it also breaks at characters that a file's name may hold.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text ({error}); save it as UTF-8") from error
    first = next((line.strip() for line in lines if line.strip()), None)
    if first is None:
        raise ValueError(f"{path}: the list is empty; wanted one path a line")
    if "\t" not in first and (has_video_suffix(first) or (root / first).is_file()):
        yield from _from_lines(lines, root)
        return
    for listed in read_list(path, videos=root):
        try:
            name = find_video(root, listed.path)
        except ValueError:
            # It is named as missing when its turn comes, and the others go on.
            name = listed.path
        yield Source(path=root / name, name=str(root / name), inside=Path(name))


def _from_lines(lines: Iterable[str], root: Path) -> Iterator[Source]:
    for number, line in enumerate(lines):
        # Some programs begin a text with a mark of its encoding.
        name = (line.removeprefix("\ufeff") if number == 0 else line).rstrip("\r\n")
        if name.strip():
            path = root / name
            inside = Path(path.name) if Path(name).is_absolute() or ".." in Path(name).parts else Path(name)
            yield Source(path=path, name=str(path), inside=inside)

"""Which files are videos."""

import re
from pathlib import Path

from pipeline.clips.video import VIDEO_SUFFIXES

# First bytes of pictures. FFmpeg opens some of them as videos of one frame.
PICTURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "GIF": rb"GIF8",
    "BMP": rb"BM",
    "TIFF": rb"II\*\0|MM\0\*",
    "WebP": rb"RIFF....WEBP",
    "HEIF or AVIF": rb"....ftyp(heic|heix|mif1|avif)",
}


def find_videos(source: Path) -> list[Path]:
    """A video by itself, or all videos below a folder, see `videos_below`.

    Raises:
        ValueError: there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f"{source}: no such video or folder; check the path")
    videos = videos_below(source)
    if not videos:
        raise ValueError(
            f"{source}: holds no video, wanted files with one of {', '.join(sorted(VIDEO_SUFFIXES))}; name their folder"
        )
    return videos


def videos_below(root: Path) -> list[Path]:
    """Videos at any depth, sorted by path. What is hidden, or lies in a hidden folder, does not count."""
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    ]


def refuse_links(root: Path, video: str) -> None:
    """Say so where a video lies behind a link.

    Args:
        root: of the videos; it may be a link itself.
        video: path below it.

    Raises:
        ValueError: the file, or a folder between it and the root, is one.
    """
    place = root
    for part in Path(video).parts:
        place /= part
        if place.is_symlink():
            raise ValueError(
                f"{root / video}: {place} is a link, wanted files below the root alone; copy the videos there, or set "
                "prepare.links: true"
            )


def refuse_pictures(path: Path, *, early: bool) -> None:
    """Say so where a file is a picture.

    Args:
        path: the file.
        early: only what FFmpeg would open as a video. Before a file failed to open nothing can be said of a JPEG's
            first bytes, which may also begin a stream of JPEGs.

    Raises:
        ValueError: it is one.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(16)
    kinds = ["HEIF or AVIF"] if early else list(PICTURES)
    for kind in kinds:
        if re.match(PICTURES[kind], head, re.DOTALL):
            raise ValueError(f"{path}: is a picture ({kind}), wanted a video; leave it out, or make a video of it")

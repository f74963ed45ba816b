"""Files that are written whole or not at all."""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk's quota is used up",
    errno.EFBIG: "files may not grow that large here",
}
FREE_SOME_SPACE = (
    "free some space and start again, it goes on from what was finished. What `dvc repro` removed before is brought "
    "back by `dvc checkout`"
)


@contextlib.contextmanager
def replacing(path: Path, *, owner: str = "") -> Iterator[Path]:
    """Give a name beside `path` to write to; when the block ends well, the file takes its place in one step.

    Args:
        path: the final name.
        owner: keeps apart processes that write the same file at once.

    Raises:
        OSError: `path` is a folder, its folder cannot be written, or the disk is full; names `path`, and what stood
            there stays.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, wanted the name of a file to write; add a name to it")
    partial = path.with_name(f".{path.name}{owner}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with telling_full_disk(path, written=partial):
            yield partial
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(partial, path)
            sync_folder(path.parent)
    except OSError as error:
        # The system names the file that was written to, which the user never named.
        if error.filename is None or Path(error.filename) not in (partial, path.parent):
            raise
        raise type(error)(f"{path}: cannot be written ({error.strerror}); check the folder") from error
    finally:
        with contextlib.suppress(NotADirectoryError):
            partial.unlink(missing_ok=True)


def refuse_overwriting(written: Mapping[str, Path | None], read: Iterable[Path]) -> None:
    """Refuse to write over what is read, or two results into one file, before any work.

    Args:
        written: by the option that names it; None where it was not given.
        read: files that the same command reads.

    Raises:
        ValueError: two of them are one file; names the option.
        IsADirectoryError: a result would be written over a folder.
    """
    taken = {path.resolve(): f"{path}, which is read" for path in read}
    for option, path in written.items():
        if path is None:
            continue
        if path.is_dir():
            raise IsADirectoryError(f"{option} {path}: is a folder, wanted the name of a file; add a name to it")
        if path.resolve() in taken:
            raise ValueError(f"{option} {path}: would overwrite {taken[path.resolve()]}; write to another file")
        taken[path.resolve()] = f"what {option} writes"


@contextlib.contextmanager
def telling_full_disk(path: Path, *, written: Path | None = None) -> Iterator[None]:
    """Let an error of a full disk name the file, what it needs, and what to do.

    Args:
        path: the file that is being made.
        written: where its bytes go until it is whole; None for `path` itself.

    Raises:
        OSError: in words, where the block raised one of a full disk.
    """
    partial = path if written is None else written
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise full_disk(path, error.errno, partial) from error


def full_disk(path: Path, number: int, partial: Path) -> OSError:
    """What to say when a file cannot be finished for want of room.

    Args:
        path: the file that is being made.
        number: of the system's error, one of FULL.
        partial: where its bytes went so far.
    """
    size = partial.stat().st_size if partial.exists() else 0
    free = shutil.disk_usage(path.parent).free
    return OSError(
        f"{path}: {FULL[number]}: it needs more than the {size} bytes that could be written, {free} are free beside "
        f"them; {FREE_SOME_SPACE}"
    )


def reserve(handle: int, start: int, length: int) -> None:
    """Take room on the disk for a part of an open file, before anything is written there.

    For writers that leave a broken file behind where a write fails.

    Args:
        handle: of the file, open for writing.
        start: first byte of the part.
        length: bytes.

    Raises:
        OSError: with its number, if the disk or a quota has no room.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, start, length)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        else:
            return
    # Some file systems cannot reserve; they can say how much is free.
    state = os.fstatvfs(handle)
    if state.f_bavail * state.f_frsize < length:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_room(path: Path, length: int) -> None:
    """Refuse to begin a file for which the disk has no room.

    Args:
        path: the file that is about to be made.
        length: bytes that it is going to have.

    Raises:
        OSError: in words.
    """
    try:
        # without a name, so that a kill in here leaves nothing behind
        with tempfile.TemporaryFile(dir=path.parent) as file:
            reserve(file.fileno(), 0, length)
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            f"{path}: {FULL[error.errno]}: it needs {length} bytes, {free} are free; {FREE_SOME_SPACE}"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a rename inside the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

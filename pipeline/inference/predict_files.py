"""Answers to video files, one after the other; a broken one is told and the rest goes on."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from pipeline.clips.stream import has_sound
from pipeline.inference.overlay import Labelling, write_overlay
from pipeline.inference.predictor import Answer, Predictor
from pipeline.inference.sources import Source
from pipeline.inference.windows import WindowRule, sliding, whole_file

LONGEST_NAME = 249
"""Bytes of an overlay's file name: file systems take 255, and while it is written it is called `.NAME.part.mp4`."""

LONG_SEC = 30
"""A video longer than this with one answer for all of it is worth a hint."""

Watch = Callable[[Fraction], None]
"""Called with the time of each frame that is read."""


@dataclass(kw_only=True)
class Overlays:
    """Where the videos with answers go."""

    out: Path
    """One file, where it ends in .mp4; else a folder."""
    labelling: Labelling
    _taken: set[Path] = field(default_factory=set)
    """Files that this call has written or will."""
    _read: set[Path] = field(default_factory=set)
    """Videos that it has read or will."""

    def check(self, given: Sequence[str], sources: Sequence[Source]) -> None:
        """Refuse what would go wrong later, before any work.

        Args:
            given: what the user named.
            sources: the videos that this means.

        Raises:
            ValueError: one file for several videos, a folder inside one that is read, a file in place of the folder,
                too long a name, or an overlay that would fall on a video that is read.
        """
        if self._is_file() and len(sources) > 1:
            raise ValueError(f"--save-video {self.out}: is one file for {len(sources)} videos; name a folder")
        if not self._is_file() and self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--save-video {self.out}: is a file, wanted a folder or a name that ends in .mp4")
        for name in given:
            if Path(name).is_dir() and self.out.resolve().is_relative_to(Path(name).resolve()):
                raise ValueError(
                    f"--save-video {self.out}: lies inside {name}, so it would be predicted the next time; write to a "
                    "folder outside"
                )
        self._read = {source.path.resolve() for source in sources}
        trial = dataclasses.replace(self, _taken=set(), _read=set(self._read))
        for source in sources:
            trial.target(source)

    def _is_file(self) -> bool:
        return self.out.suffix.lower() == ".mp4"

    def _wanted(self, source: Source) -> Path:
        if self._is_file():
            return self.out
        wanted = self.out / source.inside.with_suffix(".mp4")
        length = len(os.fsencode(wanted.name))
        if length > LONGEST_NAME:
            raise ValueError(
                f"{source.name}: found a name of {length} bytes for its overlay, wanted at most {LONGEST_NAME}; rename "
                "the video, or leave --save-video out"
            )
        return wanted

    def target(self, source: Source) -> Path:
        """The file for a source: its path below the folder that named it, with a number where that is taken.

        Raises:
            ValueError: one file for two sources, it would fall on a source, the source is an overlay that was written
                just now, or too long a name.
        """
        if self._is_file() and self._taken:
            raise ValueError(f"--save-video {self.out}: is one file, and there are several videos; name a folder")
        wanted = self._wanted(source)
        target, count = wanted, 1
        while target.resolve() in self._taken:
            count += 1
            target = wanted.with_name(f"{wanted.stem}-{count}.mp4")
        path = source.path.resolve()
        self._read.add(path)
        if target.resolve() in self._read:
            of = "the video itself" if target.resolve() == path else "another video that is read"
            raise ValueError(f"--save-video {self.out}: {target} is {of}; write to another folder")
        if path in self._taken:
            raise ValueError(f"{source.name}: is an overlay that was written just now, no video; leave it out")
        self._taken.add(target.resolve())
        return target


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What the caller is told."""

    on_answer: Callable[[Source, Answer], None]
    on_problem: Callable[[str], None]
    """A file that could not be predicted, with reason and remedy."""
    on_note: Callable[[str], None]
    watching: Callable[[str], AbstractContextManager[Watch]]
    """Called with what is being done to which file; gives the function that follows its frames."""


def predict_files(
    sources: Iterable[Source],
    predictor: Predictor,
    callbacks: Callbacks,
    *,
    windows: WindowRule | None,
    overlays: Overlays | None,
) -> tuple[int, int]:
    """Predict files in order.

    Args:
        sources: the files; may be endless.
        predictor: the checkpoint.
        callbacks: what becomes of answers and problems.
        windows: sliding windows; None for one answer a file.
        overlays: where videos with the answers drawn in go; None for none.

    Returns:
        How many files were predicted, and how many could not be.

    Raises:
        OSError: an overlay cannot be written.
    """
    done = failed = 0
    hinted = False
    for source in sources:
        try:
            if source.path.is_dir():
                raise ValueError(f"{source.name}: is a folder, wanted a video; name the folder itself, not in a list")
            target = None if overlays is None else overlays.target(source)
        except ValueError as error:
            callbacks.on_problem(str(error))
            failed += 1
            continue
        answers = _answer(source, predictor, callbacks, windows)
        if answers is not None and overlays is not None and target is not None:
            answers = _draw(source, target, answers, predictor, callbacks, overlays.labelling)
        if answers is None:
            failed += 1
            continue
        done += 1
        if windows is None and not hinted and answers[-1].end > LONG_SEC:
            hinted = True
            callbacks.on_note(
                f"{source.name}: one answer for all of its {answers[-1].end:.0f} s; --stride 2 gives one every "
                "2 seconds"
            )
    return done, failed


def _answer(source: Source, predictor: Predictor, callbacks: Callbacks, rule: WindowRule | None) -> list[Answer] | None:
    """The answers, each handed on as it comes; None where the file is broken."""
    answers: list[Answer] = []
    with callbacks.watching(source.name) as watch:
        if rule is None:
            windows = whole_file(source.path, predictor.preprocessing, watch=watch)
        else:
            windows = sliding(source.path, predictor.preprocessing, rule, watch=watch)
        coming = predictor.answers(windows, name=source.name)
        while True:
            # Around the reading alone: what goes wrong with writing answers must not pass for a broken video.
            try:
                answer = next(coming, None)
            except (ValueError, OSError) as error:
                callbacks.on_problem(str(error))
                return None
            if answer is None:
                return answers
            callbacks.on_answer(source, answer)
            answers.append(answer)


def _draw(
    source: Source,
    target: Path,
    answers: list[Answer],
    predictor: Predictor,
    callbacks: Callbacks,
    labelling: Labelling,
) -> list[Answer] | None:
    if has_sound(source.path):
        callbacks.on_note(f"{target}: has no sound, which overlays leave out")
    try:
        with callbacks.watching(f"{source.name}, overlay") as watch:
            write_overlay(
                source.path,
                target,
                answers,
                labelling,
                colour_range=predictor.preprocessing.colour_range,
                watch=watch,
            )
    except ValueError as error:
        callbacks.on_problem(str(error))
        return None
    return answers

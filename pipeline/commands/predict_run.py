"""What `dlkdd predict` does once its options are known to fit: files one by one, or one live stream."""

import contextlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import click
from tqdm import tqdm

from pipeline.clips.files import refuse_overwriting, replacing
from pipeline.clips.live_address import shown_source
from pipeline.clips.plain_text import one_line
from pipeline.inference.answers import AnswerFormat, AnswerWriter
from pipeline.inference.live_overlay import open_live_overlay
from pipeline.inference.live_stream import LiveSettings, follow
from pipeline.inference.loading import load_recogniser
from pipeline.inference.overlay import Labelling, undrawable
from pipeline.inference.predict_files import Callbacks, Overlays, predict_files
from pipeline.inference.predictor import Answer, Predictor, Protocol
from pipeline.inference.sources import STANDARD_INPUT, Source, find_sources
from pipeline.inference.windows import Span, WindowRule, default_length
from pipeline.training.machine import set_up_machine
from pipeline.training.precision import check_precision

ENCODING, ESCAPES = "utf-8", "backslashreplace"
"""Of answers: names of files that are no UTF-8 are written as escapes, which JSON reads back."""

LIVE_STRIDE = Span(value=Fraction(1), unit="s")
"""One answer a second from a stream, where the user says nothing."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How answers are made and where they go, for files and streams alike."""

    predictor: Predictor
    window: Span | None
    """None for what a view covers."""
    stride: Span | None
    form: AnswerFormat
    out: Path | None
    """None for standard output."""
    save_video: Path | None

    @property
    def labelling(self) -> Labelling:
        """What is drawn into videos."""
        form = self.form
        return Labelling(class_names=form.class_names, top=form.top, threshold=form.threshold)

    def rule(self, *, stride: Span | None = None) -> WindowRule:
        """The windows; a stride that was not given is `stride`, else the window's length."""
        length = self.window or default_length(self.predictor.preprocessing.view_rule)
        return WindowRule(length=length, stride=self.stride or stride or length)


def load(
    checkpoint: Path, protocol: Protocol, *, batch_size: int, device: str, threads: int, precision: str
) -> Predictor:
    """The checkpoint, ready to answer."""
    chosen = set_up_machine(device, threads)
    check_precision(chosen, precision)
    loaded = load_recogniser(checkpoint, device=chosen, precision=precision)
    return Predictor(loaded, protocol=protocol, batch_size=batch_size, device=chosen)


def on_files(given: tuple[str, ...], videos: Path | None, wanted: Wanted) -> int:
    """Predict files; gives the exit code, 1 where one was broken."""
    windows = wanted.rule() if wanted.stride or wanted.window else None
    if windows is not None:
        note(f"windows of {windows.length}, {windows.stride} apart")
    overlays = None
    if wanted.save_video is not None:
        overlays = Overlays(out=wanted.save_video, labelling=wanted.labelling)
        _tell_drawing(wanted.form.class_names)
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Paths may hold any bytes.
        sys.stdin.reconfigure(encoding=ENCODING, errors="surrogateescape")
    found, total = find_sources(given, root=videos, standard_input=sys.stdin), None
    if STANDARD_INPUT in given:
        found = _apart_from(wanted.out, found)
    else:
        known = list(found)
        found, total = iter(known), len(known)
        refuse_overwriting({"--out": wanted.out}, [source.path for source in known])
        if overlays is not None:
            overlays.check(given, known)
    with _writer(wanted.out, wanted.form) as writer:

        def on_answer(source: Source, answer: Answer) -> None:
            with tqdm.external_write_mode(file=sys.stdout):
                writer.write(source.name, answer)

        callbacks = Callbacks(on_answer=on_answer, on_problem=note, on_note=note, watching=_watching)
        counted = tqdm(found, desc="predict", unit="video", disable=None, total=total)
        done, failed = predict_files(counted, wanted.predictor, callbacks, windows=windows, overlays=overlays)
        if done + failed == 0:
            raise ValueError("standard input: named no video; wanted one path a line")
    if failed:
        note(f"{failed} of {done + failed} videos could not be predicted")
    return 1 if failed else 0


def on_stream(source: str, settings: LiveSettings, wanted: Wanted) -> int:
    """Follow a live stream; gives the exit code: 0 when it is over, 130 on Ctrl-C."""
    name, colours = shown_source(source), wanted.predictor.preprocessing.colour_range
    note(f"windows of {settings.windows.length}, {settings.windows.stride} apart")
    with _until_signal() as (stop, received), contextlib.ExitStack() as stack:
        writers: list[AnswerWriter] = []
        overlay = None
        if wanted.save_video is not None:
            _tell_drawing(wanted.form.class_names)
            open_overlay = open_live_overlay(wanted.save_video, wanted.labelling, colour_range=colours)
            overlay = stack.enter_context(open_overlay)

        def on_answer(answer: Answer, live: dict[str, Any]) -> None:
            # Not before: a stream that never opens leaves the answers of an earlier one as they are.
            if not writers:
                writers.append(stack.enter_context(_writer(wanted.out, wanted.form)))
            writers[0].write(name, answer, live)
            if overlay is not None:
                overlay.show(answer)

        also = None if overlay is None else overlay.offer
        summary = follow(source, wanted.predictor, settings, stop=stop, on_answer=on_answer, tell=note, also=also)
        note(str(summary))
        if overlay is not None and overlay.left_out:
            note(f"{wanted.save_video}: {overlay.left_out} frames left out, they came faster than they are written")
    return 128 + received[0] if received else 0


def _apart_from(out: Path | None, sources: Iterator[Source]) -> Iterator[Source]:
    """The sources; refuses one that answers would be written over, where they come one by one."""
    for source in sources:
        refuse_overwriting({"--out": out}, [source.path])
        yield source


def note(text: str) -> None:
    """A line for the user, beside the answers and above the bars."""
    with tqdm.external_write_mode(file=sys.stderr):
        click.echo(one_line(text), err=True)


@contextlib.contextmanager
def _writer(out: Path | None, form: AnswerFormat) -> Iterator[AnswerWriter]:
    """Answers to standard output, to a file that appears when it is whole, or a stream's to one that grows."""
    with contextlib.ExitStack() as stack:
        if out is None:
            file: TextIO = sys.stdout
            if isinstance(file, io.TextIOWrapper):
                file.reconfigure(encoding=ENCODING, errors=ESCAPES)
        elif form.live:
            # A stream's answers must be readable while it runs, and stay when the power goes.
            out.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(out.open("w", newline="", encoding=ENCODING, errors=ESCAPES))
        else:
            partial = stack.enter_context(replacing(out))
            file = stack.enter_context(partial.open("w", newline="", encoding=ENCODING, errors=ESCAPES))
        yield AnswerWriter(file, form)


@contextlib.contextmanager
def _watching(title: str) -> Iterator[Callable[[Fraction], None]]:
    # Shown from two seconds of work on: a bar for each short clip would flicker.
    with tqdm(desc=one_line(title), unit="s", disable=None, leave=False, delay=2, unit_scale=True) as bar:

        def watch(time_sec: Fraction) -> None:
            bar.update(float(time_sec) - bar.n)

        yield watch


@contextlib.contextmanager
def _until_signal() -> Iterator[tuple[threading.Event, list[int]]]:
    """An event that Ctrl-C or a termination sets, and the signals that came; a second one interrupts as usual."""
    stop = threading.Event()
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell_drawing(names: tuple[str, ...]) -> None:
    for name, drawn in undrawable(names).items():
        note(f"class {name!r} is drawn as {drawn!r}: the font has no other letters")

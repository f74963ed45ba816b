"""Standard output and error that pass no code on which would steer the terminal, whatever the text came from."""

import codecs
import contextlib
import io
import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO

from pipeline.clips.plain_text import visible

# How progress bars steer a terminal: each one begins what it writes by going back to the line's start, and several go
# up to their lines. At the start of a text alone: there a line's start is where the cursor is in any case.
BAR = re.compile(r"\r|(?:\x1b\[A)+\Z")


class PlainStream(io.TextIOWrapper):
    """A text stream that writes codes which steer a terminal as escapes, but for those of progress bars."""

    def write(self, text: str, /) -> int:
        """Write; progress bars show on a terminal alone, so elsewhere theirs are escaped too."""
        bar = BAR.match(text) if self.isatty() else None
        start = bar.end() if bar else 0
        super().write(text[:start] + visible(text[start:]))
        return len(text)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Let all that is printed in the block pass through `PlainStream`.

    Here, at the roof, because names reach the output on many ways: in results, notes, bars, errors and warnings, some
    of them not the project's own.
    """
    given = sys.stdout, sys.stderr
    plain = [_plain(stream) for stream in given]
    sys.stdout, sys.stderr = plain
    try:
        yield
    finally:
        sys.stdout, sys.stderr = given
        for stream in plain:
            # Who cares whether all was written has flushed before. Detached, as it would close the stream below it.
            with contextlib.suppress(OSError):
                if isinstance(stream, PlainStream):
                    stream.detach()


def show_traceback(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Print an error that nobody expected, as Python would but for codes that steer the terminal."""
    sys.stderr.write(visible("".join(traceback.format_exception(kind, error, where))))


def _plain(stream: TextIO) -> TextIO:
    """The stream, or a plain one on what lies below it where it writes bytes: others, in memory, steer nothing."""
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, PlainStream):
        return stream
    stream.flush()
    # Click would go around a stream of ASCII, which it takes for a mistake, to write UTF-8.
    ascii_alone = codecs.lookup(stream.encoding).name == "ascii"
    return PlainStream(
        stream.buffer,
        encoding="utf-8" if ascii_alone else stream.encoding,
        # Names of files may hold bytes that are no text.
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )

"""What the fuzz tests share: how many cases, the check that only documented errors come out, and its counts."""

import contextlib
import os
import re
import resource
import signal
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, seed, settings

CASES = int(os.environ.get("DLKDD_FUZZ", "50"))  # of each reader
SEED = int(os.environ.get("DLKDD_FUZZ_SEED", "0"))
CPU_SECONDS = 60  # of one case: a hang, and no slow machine
MEMORY_BYTES = 500 * 10**6  # that one case may add to the peak of the process
MESSAGE_CHARACTERS = 5000


@dataclass
class Reader:
    """The cases of one reader."""

    name: str
    cases: int = 0
    accepted: int = 0
    refused: Counter = field(default_factory=Counter)

    def read(self, path, load):
        """What `load()` gives, or None where it refuses; any error that is not documented passes through.

        An error has to name the file, in a message that fits on a screen.
        """
        self.cases += 1
        try:
            with cpu_limit(CPU_SECONDS), memory_limit():
                value = load()
        except (ValueError, OSError) as error:
            self.refuse(str(error), path)
            return None
        self.accepted += 1
        return value

    def refuse(self, message, path):
        """Count a refusal by the kind of its message."""
        assert str(path) in message, f"{self.name}: no file named: {message[:500]}"
        assert len(message) < MESSAGE_CHARACTERS, f"{self.name}: {len(message)} characters: {message[:500]}"
        self.refused[kind_of(message, path)] += 1

    def line(self):
        """What the full run prints."""
        kinds = "; ".join(f"{number} {kind}" for kind, number in self.refused.most_common(12))
        rest = len(self.refused) - 12
        more = f"; {rest} more kinds" if rest > 0 else ""
        return f"{self.name}: {self.cases} cases, {self.accepted} accepted; refused: {kinds}{more}"


READERS = []


def new_reader(name):
    """A reader whose line is printed at the end."""
    READERS.append(Reader(name))
    return READERS[-1]


@contextlib.contextmanager
def printed_readers():
    """Print a line for each reader that was made inside."""
    READERS.clear()
    yield
    print("", *(reader.line() for reader in READERS), sep="\n")


def kind_of(message, path):
    """A message without what differs between two of a kind: places, numbers, quoted text."""
    text = message.replace(str(path), "")
    text = re.sub(r"(?<!\w)'[^']*'?|\"[^\"]*\"?|\([^()]*\)|\[[^\]]*\]?", "*", text)
    text = re.sub(r"(?<![A-Za-z]-)\d[-+.e\d]*", "N", text)  # but the 8 of UTF-8
    return " ".join(text.split())[:60].strip(" :")


def fuzzed(cases=CASES):
    """Settings of a fuzz test: repeatable by its seed, and nothing kept between runs."""
    chosen = settings(
        max_examples=cases,
        derandomize=False,
        database=None,
        deadline=None,  # the machine may be busy; `cpu_limit` finds hangs
        print_blob=True,
        # Files of megabytes are drawn on purpose, and one folder serves all cases: each writes its file anew.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )
    return lambda test: seed(SEED)(chosen(test))


@contextlib.contextmanager
def cpu_limit(seconds):
    """Fail what takes longer on the processor; its own timer, since that of real time may be in use."""

    def stop(number, frame):
        raise AssertionError(f"still reading after {seconds} seconds on the processor")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def memory_limit(allowed=MEMORY_BYTES):
    """Fail where the peak of the process rises by more. Sharp where these tests run alone, as the full run does."""
    before = peak_bytes()
    try:
        yield
    finally:
        added = peak_bytes() - before
        assert added <= allowed, f"the peak rose by {added} bytes, wanted at most {allowed}"


def peak_bytes():
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

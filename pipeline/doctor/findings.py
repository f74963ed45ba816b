"""What `dlkdd doctor` finds, and how it is said."""

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

OK, WARNING, PROBLEM = "ok", "warning", "problem"
STATES = (OK, WARNING, PROBLEM)
"""From good to bad. A warning limits something; with a problem a stage stops or is wrong."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    part: str
    """What was looked at."""
    state: str
    """One of `STATES`."""
    found: str
    """What is there."""
    remedy: str = ""
    """What to do; empty where there is nothing to do."""


Check = Callable[[], Iterable[Finding]]


def examine(checks: Mapping[str, Check]) -> Iterator[Finding]:
    """Make all checks in turn. One that fails is a finding itself, and the others go on.

    Args:
        checks: by the part that they look at.
    """
    for part, check in checks.items():
        try:
            yield from check()
        except (ImportError, AttributeError, LookupError, OSError, RuntimeError, ValueError) as error:
            remedy = "mend what the message names; a library that fails to load: install it again"
            yield Finding(part=part, state=PROBLEM, found=f"{type(error).__name__}: {error}", remedy=remedy)
        except subprocess.TimeoutExpired as error:
            found = f"{Path(error.cmd[0]).name} did not answer in {error.timeout:g} s"
            yield Finding(part=part, state=WARNING, found=found, remedy="look again when the machine has less to do")


def as_line(finding: Finding) -> str:
    """A finding for a terminal: one line, and its remedy on another one."""
    line = f"{finding.state:<8} {finding.part:<18} {finding.found}"
    return f"{line}\n{'':<28}-> {finding.remedy}" if finding.remedy else line


def summary(findings: Sequence[Finding]) -> str:
    """How many findings of each state."""
    counts = {state: sum(finding.state == state for finding in findings) for state in STATES}
    return f"{counts[OK]} ok, {counts[WARNING]} warnings, {counts[PROBLEM]} problems"


def as_json(findings: Sequence[Finding]) -> str:
    """All findings, and the worst state among them."""
    worst = max((finding.state for finding in findings), key=STATES.index, default=OK)
    return json.dumps({"state": worst, "findings": [asdict(finding) for finding in findings]}, indent=1)

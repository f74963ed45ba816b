"""The seeds of a study in several processes at once."""

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor


def run_at_once(command: Sequence[str], seeds: Sequence[int], *, jobs: int) -> None:
    """Run a command for each seed, some of them at a time; the next one starts when one has ended.

    Args:
        command: takes `--seeds`.
        seeds: one a process.
        jobs: processes at a time, at least 1.

    Raises:
        ValueError: a process failed; those that ran then have come to their end, and no other was started.
    """
    failed: dict[int, int] = {}

    def run(seed: int) -> None:
        if not failed and (code := subprocess.run([*command, "--seeds", str(seed)], check=False).returncode):
            failed[seed] = code

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(run, seeds))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else a Ctrl-C would let all of them run
            raise
    if failed:
        told = ", ".join(f"seed {seed} (exit code {code})" for seed, code in failed.items())
        raise ValueError(
            f"study run: failed: {told}; the reason stands above. What was trained is kept: start it again"
        )

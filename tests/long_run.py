"""Runs the stages over thousands of clips, and measures how memory and open files grow with them.

python tests/long_run.py --clips 10000 [--folder FOLDER] [--json FILE]

What a run must know of every clip grows with their number, about 2 kB each. A frame that is kept, a decoder that is
not closed or a file that stays open shows as much more. The exit code is 1 where a stage grows beyond its bound.
Linux only: processes are measured through /proc.
"""

import dataclasses
import json
import os
import shutil
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import click
import psutil
import torch
from micro import Run, small_configs

from pipeline.presets import ARID_CLASSES

BYTES_PER_CLIP = 4096
"""Bound of the growth. One view of four frames of 32x32 would take 12 kB."""
NOISE_BYTES = 24e6
"""How far memory moves without a reason: what an allocator has not given back."""
WORKERS = {"workers": 2, "cache": "off"}
KEPT = {"workers": 0, "cache": "on"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """Of one stage, between the second quarter of its time and the last."""

    stage: str
    seconds: float
    memory: tuple[float, float]
    """Mean bytes in the second quarter and in the last, of the process and its children."""
    files: tuple[int, int]
    """Most open files in each."""

    def allowed(self, clips):
        """Whether the stage keeps to its bounds; half of the clips lie between the quarters' middles."""
        grown = self.memory[1] - self.memory[0]
        return grown <= NOISE_BYTES + BYTES_PER_CLIP * clips / 2 and self.files[1] <= self.files[0] + 2


class Watch(threading.Thread):
    """Samples what this process and its children hold until it is told to stop."""

    def __init__(self, interval_sec=0.1):
        super().__init__(daemon=True)
        self.interval_sec, self.samples = interval_sec, []
        self._over = threading.Event()
        self._me = psutil.Process()

    def run(self):
        while not self._over.wait(self.interval_sec):
            memory = files = 0
            for process in [self._me, *self._me.children(recursive=True)]:
                try:
                    held = process.memory_info()
                    # what forked processes share with this one counts once
                    memory += held.rss - (0 if process is self._me else held.shared)
                    files += process.num_fds()
                except psutil.NoSuchProcess:
                    continue
            self.samples.append((memory, files))

    def stop(self):
        """The samples of the second quarter and of the last."""
        self._over.set()
        self.join()
        quarter = max(1, len(self.samples) // 4)
        return self.samples[quarter : 2 * quarter], self.samples[-quarter:]


def measured(stage, call):
    """Call a stage and see how it grows."""
    watch, started = Watch(), time.monotonic()
    watch.start()
    call()
    seconds = time.monotonic() - started
    quarters = watch.stop()
    return Growth(
        stage=stage,
        seconds=seconds,
        memory=tuple(sum(memory for memory, _ in quarter) / len(quarter) for quarter in quarters),
        files=tuple(max(files for _, files in quarter) for quarter in quarters),
    )


def many_clips(run, count):
    """Copies of the rendered training clips, each with bytes of its own at its end, and their list."""
    sources = [line.split("\t") for line in run["rendered/train.txt"].read_text().splitlines()]
    lines = []
    for number in range(count):
        _, label, path = sources[number % len(sources)]
        name = f"many/{number:06d}.mp4"
        target = run.videos / name
        target.parent.mkdir(exist_ok=True)
        # a box that players leave out
        target.write_bytes((run.videos / path).read_bytes() + struct.pack(">I4sQ", 16, b"free", number))
        lines.append(f"{number}\t{label}\t{name}\n")
    run["many.txt"].write_text("".join(lines))


def growths(folder, clips):
    """Run the stages and yield how each grows."""
    changes = {"teacher": {"epochs": 1, "batch_size": 32}, "student": {"epochs": 1, "batch_size": 32}}
    changes |= {"logits": {"views": 1, "batch_size": 32, "minimum_top1": 0.0}}
    readers, kept = small_configs(**changes, compute=WORKERS), small_configs(**changes, compute=KEPT)
    run = Run(folder, readers)
    folder.mkdir(parents=True)
    run.render()
    many_clips(run, clips)
    yield measured("prepare", lambda: run.prepare(ARID_CLASSES, train=run["many.txt"]))
    run.enhancer()
    yield measured("teacher, 2 workers", run.teacher)
    yield measured("logits, 2 workers", run.logits)
    run.configs = kept
    yield measured("student, fills the cache", run.student)
    yield measured("baseline, from the cache", run.baseline)


@click.command()
@click.option("--clips", type=click.IntRange(22), default=10_000, show_default=True, help="Training clips.")
@click.option("--folder", type=click.Path(path_type=Path), help="New folder, which stays; else a temporary one.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(clips, folder, out):
    """Run prepare, teacher, logits, student and baseline over many clips."""
    torch.set_num_threads(1)
    made = None if folder else Path(tempfile.mkdtemp(prefix="dlkdd-long-"))
    found = []
    try:
        for growth in growths((made or folder) / "run", clips):
            found.append(growth)
            before, after = (value / 1e6 for value in growth.memory)
            grown = (growth.memory[1] - growth.memory[0]) / (clips / 2)
            verdict = "flat" if growth.allowed(clips) else "GROWS"
            print(
                f"{growth.stage:26} {growth.seconds:7.1f} s  memory {before:7.1f} -> {after:7.1f} MB "
                f"({grown:8.0f} bytes a clip)  files {growth.files[0]} -> {growth.files[1]}  {verdict}",
                flush=True,
            )
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    if out is not None:
        out.write_text(json.dumps({"clips": clips, "stages": [dataclasses.asdict(each) for each in found]}, indent=1))
    sys.exit(0 if all(growth.allowed(clips) for growth in found) else 1)


if __name__ == "__main__":
    main()

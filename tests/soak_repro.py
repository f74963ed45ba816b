"""Kills `dvc repro` of a whole small run in each of its stages; each time the run ends, its files are compared."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from soak_processes import (
    LIMIT_SEC,
    RUN,
    clone,
    commit_of,
    import_from,
    left_behind,
    program,
    running_stage,
    session_of,
    stage_commands,
    start,
    write_params,
)

RESULTS = (
    "clips.csv",
    "enhancer.safetensors",
    "teacher.safetensors",
    "logits.h5",
    "student.safetensors",
    "baseline.safetensors",
    "metrics.json",
)

MOST_PROBLEMS = 5
"""A soak ends early with so many: what comes after says nothing new."""

FROM_THE_START = 0.2
"""Share of kills drawn over all of a stage, half a dozen seconds of imports included; else over its work."""

WAITING = "is doing this stage already; waiting for it"
"""What a stage says of another one that holds its work folder."""

DVC_LEFTOVERS = {
    r"(Unable to read )?RWLock-file '[^']*'( format error|\. JSON structure is corrupted)": ".dvc/tmp/rwlock",
    r"unable to read: '[^']*dvc\.lock'|'[^']*dvc\.lock' (validation failed|is invalid)": "dvc.lock",
    r"join\(\) argument must be .* not 'NoneType'": "dvc.lock",  # an md5 is cut off: a path is made of nothing
}
"""What DVC says where a kill tore a file that it does not write in one step, and the file to delete then."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """Seconds of a stage that was not disturbed."""

    whole: float
    """From its start until dvc, which saves what it wrote, comes to the next one."""
    work: float
    """The same from the moment that it holds its work folder."""
    own: float
    """From that moment to its end."""


class ReproSoak:
    """Two clones, each with its own DVC cache: one of an undisturbed run, one that is killed.

    Args:
        folder: an empty or absent folder for the clones.
        repository: what is cloned.
        seed: draws kills.
        log: file for one line of json a kill or finished run, or None.
        orphans: share of kills, in [0, 1], of dvc alone: its stage goes on while the next `dvc repro` starts.
        upto: the last stage to run; None runs all.
    """

    def __init__(self, folder, repository, *, seed, log=None, orphans=0.2, upto=None):
        self.rng, self.log, self.orphans, self.upto = random.Random(seed), log, orphans, upto
        self.counts, self.problems, self.lengths = Counter(), [], {}
        self.stopped, self.orphaned = None, []  # the stage that was stopped; the dvc of every stage that lost its own
        folder.mkdir(parents=True)
        self.output = folder / "output.txt"
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "TMPDIR": str(folder / "tmp"),
        }
        (folder / "tmp").mkdir()
        self.undisturbed = clone(repository, folder / "undisturbed")
        self.killed = clone(repository, folder / "killed")
        self.data = self.killed / "data" / RUN

    def set_up(self):
        """Run the pipeline undisturbed in one clone, and measure its stages."""
        print(f"repro: commit {commit_of(self.killed)}", flush=True)
        import_from(self.killed)
        write_params([self.undisturbed, self.killed])
        self.stages = list(stage_commands(self.killed))
        if self.upto:
            self.stages = self.stages[: self.stages.index(self.upto) + 1]
        started = self._start(self.undisturbed)
        stage = self._next_stage(started, None)
        while stage is not None:
            begun, worked = time.monotonic(), self._wait_for_work(started, self.undisturbed, stage)
            while running_stage(started.pid) == stage:
                time.sleep(0.01)
            ended, following = time.monotonic(), self._next_stage(started, stage)
            self.lengths[stage] = Length(
                whole=time.monotonic() - begun, work=time.monotonic() - worked, own=ended - worked
            )
            stage = following
        if started.code() != 0 or self.lengths.keys() != set(self.stages):
            raise RuntimeError(f"undisturbed: `dvc repro` ran {list(self.lengths)}\n{started.said()}")
        made = self.undisturbed / "data" / RUN
        self.wanted = {name: _sha256(made / name) for name in self._outs(made)}
        self.files = {path.name for path in made.iterdir()}
        words = ", ".join(f"{stage} {found.own:.1f} of {found.whole:.1f}" for stage, found in self.lengths.items())
        print(f"repro: undisturbed seconds at work: {words}", flush=True)

    def soak(self, kills):
        """Kill until every stage had its share of so many kills; each round is a run from nothing to its end."""
        left = {stage: kills // len(self.stages) for stage in self.stages}
        for stage in self.rng.sample(self.stages, kills % len(self.stages)):
            left[stage] += 1
        while any(left.values()) and len(self.problems) < MOST_PROBLEMS:
            most = max(3, -(-max(left.values()) // 4))  # four rounds, where every kill hits
            self._round(left, {stage: min(most, count) for stage, count in left.items()})
        self._wait_for_orphans()

    def summary(self):
        """One line of counts."""
        stages = ", ".join(f"{stage} {self.counts['killed', stage]}" for stage in self.stages)
        verdict = "all equal" if not self.problems else f"{len(self.problems)} PROBLEMS: " + "; ".join(self.problems)
        return (
            f"repro: {self.counts['kills']} kills ({stages}; {self.counts['orphans']} of dvc alone), "
            f"{self.counts['starts']} starts, {self.counts['missed']} stages ended before their kill, "
            f"{self.counts['waited']} stages waited for an orphan, {self.counts['leftovers']} files torn by dvc were "
            f"deleted, {self.counts['finished']} finished runs, {verdict}"
        )

    def _round(self, left, planned):
        """Start `dvc repro` over and over until it ends, with the planned number of kills in each stage."""
        self._wait_for_orphans()
        for name in ("data/" + RUN, ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.killed / name, ignore_errors=True)
        (self.killed / "dvc.lock").unlink(missing_ok=True)
        while len(self.problems) < MOST_PROBLEMS:
            started = self._start(self.killed)
            self.counts["starts"] += 1
            stage = self._next_stage(started, None)
            while stage is not None:
                if planned[stage] and self._kill(started, stage):
                    planned[stage] -= 1
                    left[stage] -= 1
                    break
                planned[stage] = 0  # it has ended now, and comes again in the next round only
                stage = self._next_stage(started, stage)
            else:
                if self._ended(started):
                    return

    def _kill(self, started, stage):
        """Kill at a moment of the stage's length; False where the stage ended before."""
        length, alone = self.lengths[stage], self.rng.random() < self.orphans
        from_the_start = not alone and not self.stopped and self.rng.random() < FROM_THE_START
        delay = self.rng.uniform(0, length.own if alone else length.whole if from_the_start else length.work)
        begun = time.monotonic() if from_the_start else self._wait_for_work(started, self.killed, stage)
        while (rest := begun + delay - time.monotonic()) > 0:
            if started.ended(min(rest, 0.02)) or running_stage(started.pid) not in (stage, None):
                self.counts["missed"] += 1
                return False
        orphan = self._holder(started, self.killed, stage) if alone else None
        if orphan:
            # Stopped, so that it is still at work when the next one comes; on its own it would have ended by then.
            os.kill(orphan, signal.SIGSTOP)
            self.stopped = orphan
            self.orphaned.append(started.pid)
        started.kill(alone=bool(orphan))
        if started.code() != -signal.SIGKILL:
            self.counts["missed"] += 1
            return False
        self.counts.update(["kills", ("killed", stage)] + ["orphans"] * bool(orphan))
        words = f"{'dvc alone' if orphan else 'all'} in {stage} after {delay:.2f} s"
        self._look(started, words)
        if not orphan and (found := left_behind(started.pid)):
            self._report(f"processes {found} outlived the kill of {words}", started)
        print(f"repro: {self.counts['kills']} kills, the last of {words}", flush=True)
        return True

    def _let_go(self, started):
        """Let a stopped orphan go on once the new stage says that it waits for it."""
        if self.stopped and WAITING in started.said():
            self.counts["waited"] += 1
            self._continue_orphan()

    def _continue_orphan(self):
        if self.stopped:
            os.kill(self.stopped, signal.SIGCONT)
            self.stopped = None

    def _wait_for_orphans(self):
        """Until all stages that lost their dvc have ended."""
        self._continue_orphan()
        while self.orphaned:
            if found := left_behind(self.orphaned.pop(), limit_sec=LIMIT_SEC):
                self.problems.append(f"orphans {found} did not end within {LIMIT_SEC} s")

    def _ended(self, started):
        """Look at a `dvc repro` that ended by itself; True where the round is over."""
        said = started.said()
        if started.code() == 0:
            self.counts["finished"] += 1
            self._look(started, "a finished run", names=self.wanted)
            if strange := {path.name for path in self.data.iterdir()} ^ self.files:
                self._report(f"{sorted(strange)} are in one of the finished runs only", started)
            return True
        for words, name in DVC_LEFTOVERS.items():
            if re.search(words, said) and (self.killed / name).exists():
                print(f"repro: deletes {name} as a user would\n{said[-2000:]}", flush=True)
                self.counts["leftovers"] += 1
                (self.killed / name).unlink()
                return False
        self._report(f"`dvc repro` failed with exit code {started.code()}", started)
        return True

    def _look(self, started, words, names=()):
        """Check and note what there is now."""
        self._check(started, words, names)
        if self.log:
            line = {"kills": self.counts["kills"], "start": self.counts["starts"], "after": words}
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | {"problems": len(self.problems)}) + "\n")

    def _check(self, started, words, names):
        """Whatever lies under a final name is whole; the given names have to be there."""
        found = {name: _sha256(self.data / name) for name in self._outs(self.data)}
        for name, digest in found.items():
            if digest != self.wanted.get(name):
                self._report(f"{name} is not that of the undisturbed run after {words}", started)
        if absent := set(names) - found.keys():
            self._report(f"{sorted(absent)} are missing after {words}", started)

    def _outs(self, data):
        """The results and the rendered clips that are there, by path below the run's folder."""
        rendered = [path for path in (data / "rendered").rglob("*") if path.is_file()]
        present = [data / name for name in RESULTS if (data / name).exists()]
        return [path.relative_to(data).as_posix() for path in [*present, *rendered]]

    def _start(self, folder):
        environment = self.environment | {"PYTHONPATH": str(folder)}
        arguments = ["-m", "dvc", "repro"] + [f"{self.upto}@{RUN}"] * bool(self.upto)
        work = program(arguments, code=folder)
        return start(work, folder=folder, log=self.output, environment=environment)

    def _next_stage(self, started, before):
        """The next stage that dvc runs; None where it ends without another one."""
        end = time.monotonic() + LIMIT_SEC
        while not started.ended(0.02):
            self._let_go(started)
            stage = running_stage(started.pid)
            if stage not in (None, before):
                return stage
            if time.monotonic() > end:
                self._report(f"after {before} nothing came within {LIMIT_SEC} s", started)
                started.kill()
        return None

    def _wait_for_work(self, started, folder, stage):
        """Until a stage that dvc runs holds its work folder, or has ended; gives the time of that."""
        end = time.monotonic() + LIMIT_SEC
        while time.monotonic() < end and not started.ended(0.01) and running_stage(started.pid) == stage:
            self._let_go(started)
            if self._holder(started, folder, stage):
                self._continue_orphan()  # one that was stopped after its work is waited for by nobody
                break
        return time.monotonic()

    def _holder(self, started, folder, stage):
        """Process id of this dvc's stage where it holds its work folder; None where it does not."""
        lock = folder / "data" / RUN / ".work" / f"{stage}.lock"
        # "process N on HOST, since ..."
        holder = re.match(r"process (\d+) on ", lock.read_text() if lock.exists() else "")
        return int(holder[1]) if holder and session_of(int(holder[1])) == started.pid else None

    def _report(self, problem, started):
        problem = f"after {self.counts['kills']} kills: {problem}"
        print(f"repro: {problem}\n{started.said()}", flush=True)
        self.problems.append(problem)


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Kills the stage `logits` again and again; each time that it may finish, its store is compared byte for byte."""

import json
import math
import random
import re
import shutil
import signal
import time
from collections import Counter
from functools import partial
from itertools import product

import kill_points
from kill_points import CALLS, SIDES, Point
from soak_processes import (
    LIMIT_SEC,
    RUN,
    clone,
    commit_of,
    import_from,
    import_stage,
    left_behind,
    program,
    stage_commands,
    start,
    subcommand,
    write_params,
)

STORE = "logits.h5"
BESIDE = {STORE, "logits.h5.partial", ".work"}
"""What the stage may leave in the run's folder: docs/store.md has it written beside its name and moved."""

REMOVED = ("store", "rows", "all")
"""What may be removed before the stage begins anew: its store, its finished rows too, or also what it cached."""

MOST_PROBLEMS = 10
"""A soak ends early with so many: what comes after says nothing new."""


class LogitsSoak:
    """The clones, what an undisturbed run of the stage gives, and what was seen so far.

    Args:
        folder: an empty or absent folder for the clones.
        repository: what is cloned.
        seed: draws kills.
        log: file for one line of json a start, or None.
        undisturbed: a clone of an earlier soak, with its undisturbed run; None makes it.
        sabotage: called in every forked start before the stage; breaks the product on purpose.
    """

    def __init__(self, folder, repository, *, seed, log=None, undisturbed=None, sabotage=None):
        self.folder, self.rng, self.log, self.sabotage = folder, random.Random(seed), log, sabotage
        self.counts, self.problems, self.best_kept = Counter(), [], 0
        self.calls, self.lengths = {}, {}
        (folder / "tmp").mkdir(parents=True)
        self.output = folder / "output.txt"
        self.made = undisturbed is not None
        self.undisturbed = undisturbed or clone(repository, folder / "undisturbed")
        self.killed = clone(repository, folder / "killed")
        self.data = self.killed / "data" / RUN
        self.store, self.work = self.data / STORE, self.data / ".work"

    def set_up(self, *, ways):
        """Make the small run and its store in one clone, copy the run to the other, measure what will be killed.

        Args:
            ways: how the stage will be started: fork, process (a program of its own), pair (two that share the work).
        """
        print(f"logits: commit {commit_of(self.killed)}", flush=True)
        if not self.made:
            self._in_child(self._make_clips_and_teacher)
            self._in_child(program(["-m", "pipeline", *self.arguments], code=self.undisturbed))
        made = self.undisturbed / "data" / RUN
        self.wanted = (made / STORE).read_bytes()
        shutil.copytree(made, self.data, ignore=shutil.ignore_patterns(".work", STORE))
        shutil.copy(self.undisturbed / "params.yaml", self.killed)
        self.inputs = {path.name for path in self.data.iterdir()}
        import_stage(self.killed, "logits")
        self._begin_anew("all")
        for way in ways:
            for removed in reversed(REMOVED) if way == "fork" else ["all"]:
                self._begin_anew(removed)
                self._measure(way)
        for (way, removed), length in self.lengths.items():
            calls = f", calls {self.calls[removed]}" if way == "fork" else ""
            print(f"logits: undisturbed {way} without {removed}: {length:.2f} s at work{calls}", flush=True)
        self._begin_anew("all")

    def soak(self, kills, *, processes, pairs):
        """Kill until so many kills have hit and every kind of point has come up on either side.

        Args:
            kills: how many, at least.
            processes: share of starts, in [0, 1], as a program of its own instead of a fork.
            pairs: share of starts as two processes that share the work.
        """
        missing = [*product(CALLS, SIDES)]
        self.rng.shuffle(missing)
        in_a_row = self.rng.randint(1, 8)
        while self._hits() < kills or missing:
            if len(self.problems) >= MOST_PROBLEMS:
                return
            if in_a_row == 0:
                self._finish(self._start_of("process" if self.rng.random() < 4 * processes else "fork"))
                in_a_row = self.rng.randint(1, 8)
                continue
            way = self.rng.choices(["fork", "process", "pair"], [1 - processes - pairs, processes, pairs])[0]
            at_point = way == "fork" and (self.rng.random() < 0.5 or kills - self._hits() <= len(missing))
            died = self._kill_at_point(missing) if at_point else self._kill_after_delay(way)
            in_a_row = in_a_row - 1 if died else self.rng.randint(1, 8)

    def summary(self):
        """One line of counts."""
        points = ", ".join(f"{kind} {side} {self.counts[kind, side]}" for kind, side in product(CALLS, SIDES))
        at_points = sum(self.counts[point] for point in product(CALLS, SIDES))
        delays = ", ".join(f"{way} {self.counts['delay', way]}" for way in ("fork", "process", "pair"))
        verdict = "all equal" if not self.problems else f"{len(self.problems)} PROBLEMS: " + "; ".join(self.problems)
        return (
            f"logits: {self._hits()} kills ({self._hits() - at_points} after a delay: {delays}; {at_points} at points: "
            f"{points}), {self.counts['starts']} starts, {self.counts['missed']} ended before their kill, "
            f"{self.counts['went on']} went on with kept blocks, {self.counts['finished']} finished runs, {verdict}"
        )

    @property
    def arguments(self):
        """Subcommand and options of the stage, as dvc.yaml has them."""
        return stage_commands(self.undisturbed)["logits"]

    def _hits(self):
        return self.counts["kills"]

    def _make_clips_and_teacher(self):
        import_from(self.undisturbed)
        write_params([self.undisturbed])
        from pipeline.cli import cli

        for stage, arguments in stage_commands(self.undisturbed).items():
            if stage == "logits":
                return
            cli.main(arguments, standalone_mode=False)

    def _in_child(self, work):
        started = start(work, folder=self.undisturbed, log=self.output)
        if started.code() != 0:
            raise RuntimeError(f"{self.undisturbed}: the undisturbed run failed\n{started.said()}")

    def _start_of(self, way, prepare=None):
        environment = {"TMPDIR": str(self.folder / "tmp")}
        if way == "fork":
            work = partial(subcommand, self.arguments, [self.sabotage, prepare])
        else:
            work = program(["-m", "pipeline", *self.arguments], code=self.killed)
            environment["DLKDD_PROCESSES"] = "2" if way == "pair" else "1"
        self.counts["starts"] += 1
        return start(work, folder=self.killed, log=self.output, environment=environment)

    def _measure(self, way):
        """How long the stage is at work, and for forks how many calls of each kind there are."""
        calls, owner = self.folder / "calls.json", self._owner()
        started = self._start_of(way, partial(kill_points.write_counts, calls))
        begun = started.began if way == "fork" else self._wait_until_at_work(started, owner)
        code = started.code()
        self.lengths[way, self.removed] = time.monotonic() - begun
        self.counts.clear()
        if code != 0 or self.store.read_bytes() != self.wanted:
            raise RuntimeError(f"the stage as {way}, exit code {code}, differs undisturbed\n{started.said()}")
        if way == "fork":
            self.calls[self.removed] = json.loads(calls.read_text())
            absent = CALLS.keys() - self.calls["all"].keys()
            if absent:
                raise RuntimeError(f"the stage makes no call of {', '.join(absent)}; kill_points.CALLS is out of date")

    def _kill_at_point(self, missing):
        calls = self.calls[self.removed]
        wanted = [(kind, side) for kind, side in missing if kind in calls] or [*product(sorted(calls), SIDES)]
        # More often where there are more of them, but never so that the many flushes leave nothing to the few renames.
        ((kind, side),) = self.rng.choices(wanted, [math.sqrt(calls[kind]) for kind, _ in wanted])
        point = Point(kind=kind, number=self.rng.randrange(calls[kind]), side=side)
        started = self._start_of("fork", partial(kill_points.kill_at, point))
        if not started.ended(LIMIT_SEC):
            return self._hung(started)
        hit = self._judge(started, (kind, side), f"{side} {kind} {point.number}")
        if hit and (kind, side) in missing:
            missing.remove((kind, side))
        return hit

    def _kill_after_delay(self, way):
        shorter = self.lengths["fork", self.removed] / self.lengths["fork", "all"]
        delay, owner = self.rng.uniform(0, self.lengths[way, "all"] * shorter), self._owner()
        started = self._start_of(way)
        if way != "fork":
            self._wait_until_at_work(started, owner)
        if not started.ended(delay):
            started.kill()
        return self._judge(started, ("delay", way), f"{way} after {delay:.3f} s")

    def _owner(self):
        """What the lock of the work folder says: the process that holds it, or held it last."""
        lock = self.work / "logits.lock"
        return lock.read_text() if lock.exists() else ""

    def _wait_until_at_work(self, started, owner):
        """Until it has the work folder, which is after half a dozen seconds of imports; gives the time of that."""
        while not started.ended(0.005):
            if self._owner() not in ("", owner):
                return time.monotonic()
            if time.monotonic() - started.began > LIMIT_SEC:
                self._hung(started)
        return time.monotonic()

    def _hung(self, started):
        self._report(f"nothing came within {LIMIT_SEC} s", started)
        if not started.ended():
            started.kill()
        started.code()
        return True

    def _judge(self, started, what, words):
        """Note how a start ended; True where the kill hit, False where the stage finished before."""
        code = started.code()
        if code != -signal.SIGKILL:
            self.counts["missed"] += 1
            self._finish(started)
            return False
        self.counts.update(["kills", what])
        self._check_kept(started)
        if self.removed == "all" and any(self.work.glob("logits/shard-*.h5")):
            self.removed = "rows"  # the frames are cached by now: what is left to do is shorter
        if found := left_behind(started.pid):
            self._report(f"processes {found} outlived {words}", started)
        if self.store.exists() and self.store.read_bytes() != self.wanted:
            self._report(f"half-written under its final name after {words}", started)
            self.store.unlink()
        if strange := {path.name for path in self.data.iterdir()} - self.inputs - BESIDE:
            self._report(f"{sorted(strange)} lay beside the store after {words}", started)
        self._note(words, "killed")
        if self._hits() % 20 == 0:
            print(f"logits: {self._hits()} kills, {self.counts['finished']} finished runs", flush=True)
        return True

    def _finish(self, started):
        """Let it end and compare; then begin anew, from nothing or from a part of what there is."""
        if not started.ended(LIMIT_SEC):
            self._hung(started)
        elif started.code() != 0:
            self._report(f"started again it failed with exit code {started.code()}", started)
        else:
            self.counts["finished"] += 1
            self._check_kept(started)
            if self.store.read_bytes() != self.wanted:
                self._report("the bytes of the store differ", started)
            if strange := {path.name for path in self.data.iterdir()} - self.inputs - {STORE, ".work"}:
                self._report(f"{sorted(strange)} lay beside the finished store", started)
        self._note("undisturbed", "finished")
        failed = started.code() != 0
        # With all rows kept only publishing is left: half of the runs would have nothing else to kill.
        (removed,) = self.rng.choices(["nothing", *REMOVED], [1, 1, 3, 2])
        self._begin_anew("all" if failed else removed)

    def _check_kept(self, started):
        """Blocks that were kept once stay kept until they are removed."""
        if found := re.search(r"goes on with (\d+) of", started.said()):
            self.counts["went on"] += 1
            if int(found[1]) < self.best_kept:
                self._report(f"found {found[1]} blocks kept, wanted the {self.best_kept} of before", started)
            self.best_kept = int(found[1])

    def _begin_anew(self, removed):
        """Remove one of REMOVED, or nothing: then the store that is there has to be replaced."""
        self.removed = "store" if removed == "nothing" else removed
        if removed != "nothing":
            self.store.unlink(missing_ok=True)
        if removed in ("rows", "all"):
            self.best_kept = 0
            shutil.rmtree(self.work / "logits" if removed == "rows" else self.work, ignore_errors=True)

    def _report(self, problem, started):
        problem = f"after {self._hits()} kills: {problem}"
        print(f"logits: {problem}\n{started.said()}", flush=True)
        last = started.said().strip().splitlines()[-1:]
        self.problems.append(" - ".join([problem, *last]))

    def _note(self, what, outcome):
        if self.log:
            line = {"kills": self._hits(), "start": self.counts["starts"], "kill": what, "outcome": outcome}
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | {"problems": len(self.problems)}) + "\n")

"""What cached logits save in training, and what training costs with the number of clips.

python benchmarks/training.py --out training.json [--small] [--device cuda] [--part steps]

Parts: `steps` times a training step of baseline, student with cached logits and student with the teacher in memory, in
turn; `memory` measures their peak memory; `clips` times epochs of 100 to 10,000 clips of a trivial network; `fit`
measures the memory of a batch of 8 with checkpointed activations. Clips are noise in memory: reading videos is
measured elsewhere.
"""

import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import torch
from noise_clips import CLASSES, Noise, Size, make_clips, make_store
from side_by_side import ROUNDS, in_turn, print_ratio, ratio, write_report
from torch import nn

from pipeline.clips.dataset import DrawnViews, ViewDataset
from pipeline.distillation.live import LiveTeacher
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.losses import cross_entropy, student_loss
from pipeline.distillation.replay import PixelCheck, StoredViews, stored_logits
from pipeline.enhancers.build import build_enhancer
from pipeline.models.classifier import build_classifier
from pipeline.models.inference_form import for_inference
from pipeline.models.recogniser import NORMALIZATIONS, Recogniser
from pipeline.training.activations import checkpoint_activations
from pipeline.training.distributed import Ranks
from pipeline.training.loop import Schedule, peak_memory_bytes, train_one_epoch
from pipeline.training.machine import set_up_machine
from pipeline.training.parts import Steps
from pipeline.training.together import Together

VIEWS, EPOCHS = 5, 30
SCHEDULE = Schedule(lr=1e-4, shape="constant", warmup_steps=0, total_steps=1)
BASELINE, CACHED, LIVE, BEFORE, PASS = "baseline", "cached", "live", "live, teacher first", "teacher's pass"


FULL = Size(model="r2plus1d_34", batch=1, frames=64, frame_size=(128, 170), side=112)
SMALL = Size(model="r2plus1d_tiny", batch=8, frames=16, frame_size=(64, 85), side=56, steps=4)
TRIVIAL = Size(model="mean colour", batch=8, frames=4, frame_size=(18, 24), side=16)


class MeanColour(nn.Module):
    """A network that costs nothing, so that what is around it shows."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, CLASSES)

    def forward(self, pixels):
        """Logits of uint8 (B, T, S, S, 3)."""
        return self.linear(pixels.float().mean((1, 2, 3)) / 255)


class TeacherFirst(nn.Module):
    """A student whose teacher answers before it, while no activation of the student is kept."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student = student
        self.ask = [teacher]  # in a list, so that its weights are none of this module's
        self.answer = None

    def forward(self, pixels):
        """The student's logits; the teacher's are in `answer`."""
        with torch.no_grad():
            self.answer = self.ask[0](pixels)
        return self.student(pixels)


def make_recogniser(size, device, *, enhanced=False):
    """A network with first weights; the teacher's with Zero-DCE, in the form in which it answers."""
    if size is TRIVIAL or size.model == TRIVIAL.model:
        return MeanColour().to(device)
    classifier = build_classifier(size.model, num_classes=CLASSES, num_frames=size.frames, head_dropout=0.8, seed=0)
    mean, std = NORMALIZATIONS["kinetics"]
    enhancer = build_enhancer("zero_dce") if enhanced else None
    recogniser = Recogniser(classifier, mean=mean, std=std, enhancer=enhancer)
    return (for_inference(recogniser) if enhanced else recogniser).to(device)


class Trainer:
    """Calling it trains an epoch."""

    def __init__(self, kind, size, clips, store_path, device, *, micro_batches=1, checkpointed=False):
        self.size, self.clips, self.device, self.epoch = size, clips, device, 0
        self.store = LogitStore.open(store_path)
        model = make_recogniser(size, device)
        if checkpointed:
            checkpoint_activations(model.classifier.trunk)
        source, check = Noise(size), None
        views = DrawnViews(rule=size.rule, mode="consistent", num_views=self.store.num_views)
        if kind == CACHED:
            views = StoredViews(store=self.store)
            check = PixelCheck(store=self.store, videos=Path(), colour_range="auto", strict=True)
        teacher = make_recogniser(size, device, enhanced=True) if kind in (LIVE, BEFORE, PASS) else None
        self.live = teacher and LiveTeacher(teacher, clips, view_of=views, size=size.side, bright=None, device=device)
        if kind == BEFORE:
            model = TeacherFirst(model, teacher)
        self.loss_of = {BASELINE: self.plain, CACHED: self.cached, LIVE: self.asked, BEFORE: self.asked_before}.get(
            kind
        )
        dataset = ViewDataset(clips, source=source, view_of=views, size=size.side, check=check)
        self.steps = Steps(
            dataset, batch_size=size.batch, micro_batches=micro_batches, seed=0, workers=0, ranks=Ranks()
        )
        self.together = Together(model)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def __call__(self):
        """Train an epoch, or only let the teacher pass its clips."""
        if self.loss_of is None:
            for step in self.steps.of_epoch(self.epoch):
                for part in step.parts:
                    self.live(part.batch, self.epoch).cpu()
        else:
            steps = self.steps.of_epoch(self.epoch)
            arguments = {"epoch": self.epoch, "first_step": 0, "device": self.device}
            train_one_epoch(self.together, steps, self.loss_of, self.optimizer, SCHEDULE, **arguments)
            self.optimizer.zero_grad(set_to_none=True)
        self.epoch += 1

    def plain(self, logits, batch, epoch):
        """The baseline's loss."""
        return cross_entropy(logits, batch.labels)

    def cached(self, logits, batch, epoch):
        """The student's, from the store."""
        return self.both(logits, batch, stored_logits(self.store, self.clips, batch.indices, epoch).to(logits.device))

    def asked(self, logits, batch, epoch):
        """The student's, from the teacher."""
        return self.both(logits, batch, self.live(batch, epoch))

    def asked_before(self, logits, batch, epoch):
        """The student's, from the teacher that has answered already."""
        return self.both(logits, batch, self.together.model.answer)

    def both(self, logits, batch, targets):
        """Labels and soft targets, with the paper's numbers."""
        return student_loss(logits, batch.labels, targets, temperature=5.0, weight=1.5)


def bytes_of(module):
    """Weights and buffers."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def peak_of(device):
    """Peak memory in bytes: of the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would give the peak of the process that started this one, where that is higher
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return peak_memory_bytes(device)


def resident_bytes():
    """Resident memory of this process now, from where its peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak_of(torch.device("cpu"))


def alone(function, *arguments):
    """Run in a new process, whose peak memory is then its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_of_training(kind, size, folder, device_name, threads, options):
    """Peak memory in bytes and seconds of an epoch with the optimizer's state in memory, as from the second step on."""
    device = set_up_machine(device_name, threads)
    trainer = Trainer(kind, size, make_clips(size.batch * size.steps), folder / "logits.h5", device, **options)
    for weight in trainer.together.model.parameters():
        weight.grad = torch.zeros_like(weight)
    trainer.optimizer.step()
    seconds = -time.perf_counter()
    trainer()
    return {"peak": peak_of(device), "sec": seconds + time.perf_counter()}


def peak_of_the_teacher(size, device_name, threads):
    """Bytes of the teacher's weights, and of what its forward pass needs beside them."""
    device = set_up_machine(device_name, threads)
    teacher = make_recogniser(size, device, enhanced=True).eval()
    pixels = torch.zeros((size.batch, size.frames, size.side, size.side, 3), dtype=torch.uint8, device=device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()
    with torch.no_grad():
        teacher(pixels).cpu()
    return {"weights": bytes_of(teacher), "pass": peak_of(device) - before}


def measure_steps(size, folder, device_name, threads, rounds):
    """Time of a step."""
    clips = make_clips(size.batch * size.steps)
    make_store(folder / "logits.h5", clips, size, VIEWS)
    device = set_up_machine(device_name, threads)
    kinds = (BASELINE, CACHED, LIVE, PASS)
    times = in_turn({kind: Trainer(kind, size, clips, folder / "logits.h5", device) for kind in kinds}, rounds=rounds)
    click.echo(f"{size.model}, {size.batch} clips of {size.frames}x{size.side}x{size.side} a step, on {device}")
    middle = {kind: statistics.median(seconds) / size.steps for kind, seconds in times.items()}
    for kind, seconds in middle.items():
        click.echo(f"  {kind:26} {seconds:9.3f} s a step")
    named = f"{size.model}, {size.frames} frames: student with"
    print_ratio(f"{named} cached logits / baseline", ratio(times[CACHED], times[BASELINE]), wanted="at most 1.03")
    print_ratio(f"{named} live teacher / cached logits", ratio(times[LIVE], times[CACHED]), wanted="at least 1.3")
    totals = show_totals(middle[CACHED], middle[PASS], middle[LIVE])
    return {"size": str(size), "device": str(device), "sec": times, "totals": totals}


def measure_memory(size, folder, device_name, threads):
    """Peak memory of training, and what the teacher takes of it."""
    make_store(folder / "logits.h5", make_clips(size.batch * size.steps), size, VIEWS)
    peaks = {
        kind: alone(peak_of_training, kind, size, folder, device_name, threads, {})["peak"]
        for kind in (BASELINE, CACHED, LIVE, BEFORE)
    }
    teacher = alone(peak_of_the_teacher, size, device_name, threads)
    click.echo(f"{size.model}, {size.batch} clips of {size.frames}x{size.side}x{size.side} a step, on {device_name}")
    for kind, peak in peaks.items():
        aim = "   wanted at most 1.05" if kind == CACHED else ""
        click.echo(f"  peak {kind:26} {peak / 1e6:9,.0f} MB   {peak / peaks[BASELINE]:5.2f} x the baseline{aim}")
    mb = teacher | {"after": peaks[LIVE] - peaks[CACHED], "before": peaks[BEFORE] - peaks[CACHED]}
    mb = {name: f"{value / 1e6:,.0f} MB" for name, value in mb.items()}
    click.echo(
        f"  the teacher: weights {mb['weights']}, its pass {mb['pass']} more; the cache frees {mb['after']} where it "
        f"answers after the student's forward pass, {mb['before']} where before"
    )
    return {"size": str(size), "device": device_name, "peak_bytes": peaks, "teacher_bytes": teacher}


def show_totals(cached, teacher, live):
    """Whole trainings by arithmetic from the measured pieces: V passes of the teacher, against one in each step."""
    click.echo(f"  {EPOCHS} epochs with the stage logits, computed from these, in seconds for each step of an epoch:")
    rows = []
    for views in (EPOCHS, VIEWS):
        for students in (1, 5):
            store, alive = views * teacher + students * EPOCHS * cached, students * EPOCHS * live
            rows.append({"views": views, "students": students, "live_over_cached": alive / store})
            what = f"V = {views:2}, {students} student{'s' if students > 1 else ' '}"
            click.echo(f"    {what}: live {alive:9.1f} s, cached {store:9.1f} s, live / cached {alive / store:.2f}")
    return rows


def memory_of_clips(count, folder, threads):
    """Seconds a clip of an epoch, and what training adds to resident memory once the store is read."""
    device, path = set_up_machine("cpu", threads), folder / f"{count}.h5"
    trainer = Trainer(CACHED, TRIVIAL, make_clips(count), path, device)
    before = peak_of(device)
    seconds = -time.perf_counter()
    trainer()
    seconds += time.perf_counter()
    trainer()
    trainer()
    return {
        "clips": count,
        "sec": seconds,
        "grown": peak_of(device) - before,
        "total": peak_of(device),
        "store": path.stat().st_size,
    }


def measure_clips(folder, threads, rounds):
    """Epochs of more and more clips."""
    counts = (100, 1_000, 10_000)
    for count in counts:
        make_store(folder / f"{count}.h5", make_clips(count), TRIVIAL, 2)
    found = [alone(memory_of_clips, count, folder, threads) for count in counts]
    click.echo("epochs of a trivial network, cached logits")
    for row in found:
        click.echo(
            f"  {row['clips']:6,} clips: {row['sec'] / row['clips'] * 1e3:6.2f} ms a clip; memory grows by "
            f"{row['grown'] / 1e6:5.1f} MB over three epochs, store {row['store'] / 1e6:5.1f} MB, "
            f"peak {row['total'] / 1e6:,.0f} MB ({(row['total'] - found[0]['total']) / 1e6:+.1f} MB)"
        )
    device = set_up_machine("cpu", threads)
    trainers = {n: Trainer(CACHED, TRIVIAL, make_clips(n), folder / f"{n}.h5", device) for n in counts}
    times = in_turn({n: lambda n=n: [trainers[n]() for _ in range(10_000 // n)] for n in counts}, rounds=rounds)
    for count in counts[1:]:
        print_ratio(f"seconds a clip, {count:,} clips / 100", ratio(times[count], times[100]), wanted="about 1")
    return {"memory": found, "sec_of_10000": {str(n): seconds for n, seconds in times.items()}}


def measure_fit(size, folder, device_name, threads):
    """Memory of a batch of 8 clips with checkpointed activations, whole and in parts."""
    size = Size(model=size.model, batch=8, frames=size.frames, frame_size=size.frame_size, side=size.side)
    make_store(folder / "logits.h5", make_clips(8), size, VIEWS)
    click.echo(f"{size.model}, a batch of 8 clips of {size.frames}x{size.side}x{size.side}")
    rows = []
    for micro_batches, checkpointed in ((8, False), (8, True), (1, True)):
        options = {"micro_batches": micro_batches, "checkpointed": checkpointed}
        found = alone(peak_of_training, CACHED, size, folder, device_name, threads, options)
        rows.append(options | found)
        name = f"{micro_batches} parts{', checkpointed' if checkpointed else ''}"
        click.echo(f"  {name:22} peak memory {found['peak'] / 1e9:6.2f} GB, {found['sec']:7.1f} s a step")
    return rows


PARTS = ("steps", "memory", "clips", "fit")


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON to write.")
@click.option("--small", is_flag=True, help="The tiny network on small clips, in a minute.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda, of the steps.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads of torch.")
@click.option("--rounds", type=click.IntRange(6), default=ROUNDS, show_default=True, help="Rounds of comparisons.")
@click.option("--frames", type=click.IntRange(8), help="Frames a clip: fewer allow more rounds.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only these; all without it.")
def main(out, small, device, threads, rounds, frames, parts):
    """Time and weigh training steps; print and save the figures."""
    size, report = SMALL if small else FULL, {"small": small}
    size = dataclasses.replace(size, frames=frames or size.frames)
    for part in parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="training-") as made:
            folder = Path(made)
            if part == "steps":
                report[part] = measure_steps(size, folder, device, threads, rounds)
            elif part == "memory":
                report[part] = measure_memory(size, folder, device, threads)
            elif part == "clips":
                report[part] = measure_clips(folder, threads, rounds)
            else:
                report[part] = measure_fit(size, folder, device, threads)
    write_report(out, report)


if __name__ == "__main__":
    main()

"""The machine: GPU, memory, disk, threads."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.config import ComputeConfig
from pipeline.doctor.findings import OK, PROBLEM, WARNING, Finding

GIB = 2**30
DEMO_MEMORY, DEMO_DISK = 1.5 * GIB, 0.2 * GIB
"""What the demo needs at most, with some room: 1.1 GB in memory and 20 MB in files."""
LITTLE_MEMORY, LITTLE_DISK = 4 * GIB, 10 * GIB
"""Below these, training at the paper's sizes and caches of frames do not fit."""
LITTLE_SHARED = 1 * GIB
"""Of /dev/shm: a batch of 8 clips of 64 frames of 112x112 is 19 MB, and each worker holds a few."""
CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container what it may use."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def gpu() -> Iterator[Finding]:
    """Each GPU that torch sees; or why it may see none."""
    import torch  # here, so that the other parts do without: it may be what does not load

    driver = driver_version()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            found = f"{about.name}, {about.total_memory / GIB:.1f} GiB, driver {driver or 'unknown'}"
            yield Finding(part=f"cuda:{index}", state=OK, found=f"{found}, CUDA {torch.version.cuda} of torch")
    elif driver is not None:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        remedy = (
            f"CUDA_VISIBLE_DEVICES is {hidden!r}: unset it"
            if hidden is not None
            else "install a torch for this driver, or a newer driver; nvidia-smi shows the newest CUDA that it can do"
        )
        found = f"driver {driver} is there, but torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU"
        yield Finding(part="GPU", state=WARNING, found=found, remedy=remedy)
    else:
        remedy = "r2plus1d_tiny trains on a CPU; the paper's r2plus1d_34 wants a GPU"
        yield Finding(part="GPU", state=OK, found="none: everything runs on the CPU", remedy=remedy)


def driver_version() -> str | None:
    """The NVIDIA driver's version; None where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else None


def memory() -> Iterator[Finding]:
    """Main memory, and the shared memory that the reading processes hand batches through."""
    total, available = memory_bytes()
    found = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    yield _judged("memory", found, available, DEMO_MEMORY, LITTLE_MEMORY, "close other programs, or lower batch_size")
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        remedy = "" if size >= LITTLE_SHARED else "docker run --shm-size=8g, or compute.workers: 0"
        state = OK if size >= LITTLE_SHARED else WARNING
        yield Finding(part="shared memory", state=state, found=f"{size / GIB:.1f} GiB in {shared}", remedy=remedy)


def memory_bytes() -> tuple[int, int]:
    """Total and available bytes of main memory, of the container where one limits it."""
    pages = os.sysconf("SC_PAGE_SIZE")
    total = available = pages * os.sysconf("SC_PHYS_PAGES")
    info = Path("/proc/meminfo")
    if info.is_file():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = (CGROUP / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        total = min(total, int(text))
        # What was read from files fills the rest, and is let go where a program wants memory.
        details = CGROUP / "memory.stat"
        kinds = details.read_text().splitlines() if details.is_file() else []
        read = sum(int(line.split()[1]) for line in kinds if line.startswith("inactive_file "))
        available = min(available, total - int(used.read_text()) + read)
    return total, available


def disk(folder: Path) -> Iterator[Finding]:
    """Free space where a run's files will lie."""
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free in {folder.resolve()}"
    remedy = "free some: `dlkdd clean` removes cached frames; or set compute.cache: off"
    yield _judged("disk", found, free, DEMO_DISK, LITTLE_DISK, remedy)


def threads(compute: ComputeConfig | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Cores against the threads that params.yaml asks for.

    Args:
        compute: the section of params.yaml; None where there is none.
        environment: of this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{cores} cores"
    if compute is not None:
        found += f", compute.threads {compute.threads}, compute.workers {compute.workers}"
    found += "".join(f", {name}={environment[name]}" for name in THREAD_VARIABLES if name in environment)
    if compute is not None and compute.threads > cores:
        remedy = f"set compute.threads to {cores} at most: more than the cores slow each other down"
        yield Finding(part="threads", state=WARNING, found=found, remedy=remedy)
    else:
        yield Finding(part="threads", state=OK, found=found)


def _judged(part: str, found: str, value: float, least: float, enough: float, remedy: str) -> Finding:
    if value >= enough:
        return Finding(part=part, state=OK, found=found)
    return Finding(part=part, state=WARNING if value >= least else PROBLEM, found=found, remedy=remedy)

import contextlib
import ipaddress
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import presets
from pipeline.clips.video import write_video

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Nothing is fetched while the program runs: an address that is not this machine's is an error in every test."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def refuse_others(host):
        if host in (None, "", "localhost", socket.gethostname()):
            return
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host).is_loopback:
                return
        raise AssertionError(f"asks the network for {host}")

    def connect_here(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse_others(address[0])
        return connect(self, address)

    def resolve_here(host, *more, **named):
        refuse_others(host)
        return resolve(host, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        patch.setattr(socket, "getaddrinfo", resolve_here)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Tests promise equal bytes, which hold for one number of threads; a command that a test ran may have set another.

    Before all fixtures: what is made for a whole module is compared with what new processes make.
    """
    torch.set_num_threads(1)


@pytest.fixture
def make_video():
    """Write a lossless video of smooth seeded noise; returns its frames, uint8 (T, H, W, 3)."""

    def make(path, *, num_frames=12, height=24, width=32, seed=0, lossless=True, level=255):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, level + 1, (num_frames, height // 8, width // 8, 3), dtype=np.uint8)
        frames = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames, fps=30, lossless=lossless)
        return frames

    return make


@pytest.fixture
def arid6():
    """Folder of real dark clips, where the user has them."""
    return _folder_from("DLKDD_ARID6", "real dark clips of ARID")


@pytest.fixture
def egogest10():
    """Folder of real lit clips, where the user has them."""
    return _folder_from("DLKDD_EGOGEST10", "real lit clips of EgoGestAR")


def _folder_from(variable, what):
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} names no folder of {what}")
    return Path(value)


# Imported within: what needs no run should not import every stage.
@pytest.fixture(scope="session")
def small_params():
    """Gives the parameters of a small run: small_params(student={...}) changes single values."""
    import micro

    return micro.small_params


@pytest.fixture(scope="session")
def small_configs():
    """Gives every section of a small run as its dataclass."""
    import micro

    return micro.small_configs


@pytest.fixture(scope="module")
def with_teacher(tmp_path_factory, small_configs):
    """A run that has its teacher, and no logits yet."""
    from micro import Run

    run = Run(tmp_path_factory.mktemp("with_teacher") / "micro", small_configs())
    run.folder.mkdir()
    run.render()
    run.prepare(presets.ARID_CLASSES)
    run.enhancer()
    run.teacher()
    return run

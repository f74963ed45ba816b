"""Less memory for more time: a trunk's blocks forget what they computed on the way, and compute it again going back."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(trunk: nn.Module) -> None:
    """Let a trunk keep only what comes into each of its blocks; changes no result and no name of a weight.

    Args:
        trunk: a feature network; its blocks are the innermost modules that sequences of modules hold.
    """
    for block in blocks_of(trunk):
        # On the instance: `forward` is what a call ends in, and the state dict knows nothing of it.
        block.forward = partial(_forward, block, block.forward)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The parts that a trunk is made of, in order: its stem, its blocks, and what lies between those."""
    for child in module.children():
        if isinstance(child, nn.Sequential) and all(any(part.children()) for part in child):
            yield from blocks_of(child)
        elif any(True for _ in child.parameters()):
            yield child


def _forward(block: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x)
    # The state of random draws is kept and set again by checkpoint itself, so dropout drops the same.
    return checkpoint(forward, x, use_reentrant=False, context_fn=partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first computation, and around the second."""
    return contextlib.nullcontext(), _statistics_kept(block)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch normalisation updates copies of its running statistics, which in training its output does not depend on."""
    norms = [norm for norm in block.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    kept = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    # Copies, not None: what is computed again has to keep tensors of the same kind.
    for norm, buffers in zip(norms, kept, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)

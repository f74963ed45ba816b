"""Pretrained files: read without running code from them, renamed to this project's names, checked entry by entry."""

import hashlib
import io
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

UNREADABLE = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""What the readers raise on cut or altered files; torch unpickles them step by step, so nearly anything."""

WEIGHT_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Of the numbers with a point; torch has more types, which it can neither check nor convert."""

OLD_FORM_PICKLES = 5
"""That torch.save wrote one after the other before 1.6: magic number, protocol, system, state and storages' keys."""

WORD_CHARACTERS = 10_000
"""Longest run without a space in a text of a pickle: names have dozens of characters."""

_WRAPPED_TRUNK = {"0": "stem", "1": "layer1", "2": "layer2", "3": "layer3", "4": "layer4"}
"""The public late-temporal-modelling and DarkLight code keeps the trunk as `features`, a sequence of its parts."""

_WRAPPED_HEAD = {
    r"(?:bert|self_attention)\.clsToken": "class_token",
    r"(?:bert|self_attention)\.embedding\.learnedPosition\.pe": "position",
    r"(?:bert|self_attention)\.transformer_blocks\.0\.attention\.linear_layers\.0\.(\w+)": r"attention.query.\1",
    r"(?:bert|self_attention)\.transformer_blocks\.0\.attention\.linear_layers\.1\.(\w+)": r"attention.key.\1",
    r"(?:bert|self_attention)\.transformer_blocks\.0\.attention\.linear_layers\.2\.(\w+)": r"attention.value.\1",
    r"(?:bert|self_attention)\.transformer_blocks\.0\.attention\.output_linear\.(\w+)": r"attention.output.\1",
    r"(?:bert|self_attention)\.transformer_blocks\.0\.feed_forward\.w_1\.(\w+)": r"feed_forward.0.\1",
    r"(?:bert|self_attention)\.transformer_blocks\.0\.feed_forward\.w_2\.(\w+)": r"feed_forward.3.\1",
    r"(?:bert|self_attention)\.transformer_blocks\.0\.input_sublayer\.norm\.a_2": "norm1.gain",
    r"(?:bert|self_attention)\.transformer_blocks\.0\.input_sublayer\.norm\.b_2": "norm1.bias",
    r"(?:bert|self_attention)\.transformer_blocks\.0\.output_sublayer\.norm\.a_2": "norm2.gain",
    r"(?:bert|self_attention)\.transformer_blocks\.0\.output_sublayer\.norm\.b_2": "norm2.bias",
    r"fc_action\.(\w+)": r"classifier.\1",
}
"""Names of the same code's attention head -> names of TemporalAttention."""


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a state dict onto the CPU, never running code from the file.

    Args:
        path: `.safetensors`, or what `torch.save` wrote, in its new form or the old one: a state dict, or a
            training checkpoint that holds one under the key `state_dict`.

    Returns:
        The tensors by key, and the file's sha256 in hexadecimal.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such weights; check the path in params.yaml")
    data = path.read_bytes()
    wanted = "wanted a state dict: tensors by name"
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load(data)
        else:
            _refuse_traps(data)
            state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except UNREADABLE as error:
        # Without torch's own words: they advise to load the file with code allowed.
        raise ValueError(f"{path}: found {_what_is_wrong(data, error)}, {wanted}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        keys = (
            f" with the keys {', '.join(str(key)[:80] for key in list(state)[:5])}"
            if isinstance(state, Mapping)
            else ""
        )
        raise ValueError(
            f"{path}: found a {type(state).__name__} of other things{keys}, {wanted}; save model.state_dict()"
        )
    for key, tensor in state.items():
        if (fault := _fault(tensor, len(data))) is not None:
            raise ValueError(f"{path}: {key[:200]}: found {fault}, wanted weights; fetch the file again")
    return dict(state), hashlib.sha256(data).hexdigest()


def to_classifier_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict to the names of `Classifier`: `trunk.*`, `head.*` and `head.classifier.*`.

    Known are the flat names of torchvision and of the published ig65m files (`stem.0.weight`, `fc.weight`), the
    wrapped ones of public late-temporal-modelling and DarkLight checkpoints (`features.0.0.weight`,
    `bert.clsToken` or `self_attention.clsToken`), and those of this project's checkpoints
    (`classifier.trunk.stem.0.weight`; an enhancer inside is left out).
    """
    if all(key.startswith("module.") for key in state):  # left by nn.DataParallel
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    if any(key.startswith("classifier.trunk.") for key in state):
        own = [key for key in state if not key.startswith("enhancer.")]
        return {key.removeprefix("classifier."): state[key] for key in own}
    # Torchvision's transformers have a part `features` too, but no weight of that name in it.
    renamed = _wrapped_name if "features.0.0.weight" in state else _flat_name
    return {renamed(key): tensor for key, tensor in state.items()}


def check_state_dict(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, *, remedy: str) -> None:
    """Check that two state dicts have the same keys and shapes, and numbers with a point in the same places.

    Args:
        found: of the file.
        wanted: of the network.
        path: of the file, for the message.
        remedy: what to do about it, for the message.

    Raises:
        ValueError: names the first entry that differs, in the network's order, and then in the file's.
    """
    for key, tensor in wanted.items():
        shape = tuple(tensor.shape)
        if key not in found:
            raise ValueError(f"{path}: {key}: found no such entry, wanted shape {shape}; {remedy}")
        if found[key].shape != tensor.shape:
            raise ValueError(f"{path}: {key}: found shape {tuple(found[key].shape)}, wanted {shape}; {remedy}")
        if found[key].is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{path}: {key}: found type {found[key].dtype}, wanted {tensor.dtype}; {remedy}")
    for key, tensor in found.items():
        if key not in wanted:
            shape = tuple(tensor.shape)
            raise ValueError(f"{path}: {key[:200]}: found shape {shape}, wanted no such entry; {remedy}")


def _refuse_traps(data: bytes) -> None:
    """Refuse what would hang torch.load or fill the memory, of a file that torch.save did not write."""
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            # torch.save packs nothing, but torch.load would unpack what grows a thousandfold.
            if (size := sum(entry.file_size for entry in entries)) > len(data):
                raise ValueError(f"holds {size} bytes when unpacked")
            pickles = [archive.read(entry) for entry in entries if entry.filename.endswith("data.pkl")]
        for content in pickles:
            _refuse_long_texts(io.BytesIO(content))
    else:
        old_form = io.BytesIO(data)
        for _ in range(OLD_FORM_PICKLES):
            _refuse_long_texts(old_form)


def _refuse_long_texts(stream: io.BytesIO) -> None:
    """Go through one pickle without making anything of it.

    torch searches its own refusals by regular expressions whose time grows with the square of a word in them.
    """
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL" and str(argument).endswith(" bytearray"):  # of any length, from a few bytes
            raise ValueError("makes a bytearray")
        if isinstance(argument, str | bytes) and max(map(len, argument.split()), default=0) > WORD_CHARACTERS:
            raise ValueError(f"holds a word of more than {WORD_CHARACTERS} characters")


def _fault(tensor: Tensor, size: int) -> str | None:
    """Why a tensor of a file of so many bytes is no weight; None if it may be one.

    A few bytes can describe a tensor of any size, by strides of zero or without memory: such a one is refused before
    anything is computed with it.
    """
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        return f"a tensor of type {tensor.dtype}, layout {tensor.layout} and device {tensor.device}"
    if tensor.numel() * tensor.element_size() > size:
        return f"{tensor.numel()} numbers in a file of {size} bytes"
    if tensor.is_floating_point() and tensor.dtype not in WEIGHT_TYPES:
        return f"numbers of type {tensor.dtype}"
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        return "values that are not finite"
    return None


def _what_is_wrong(data: bytes, error: Exception) -> str:
    """Why a file did not load, and what to do, for the message."""
    size = f"{len(data)} bytes"
    if "unsupported global" in str(error).lower():  # torch's words for an object that it will not make
        remedy = "save model.state_dict(), or fetch the file again"
        return f"{size} of a pickle of other objects than tensors, refused and not run; {remedy}"
    if data[:2] in (b"PK", b"\x80\x02") or isinstance(error, safetensors.SafetensorError):
        return f"{size} that do not load, cut short or damaged; fetch the file again"
    return f"{size} that are no checkpoint; check the path, or fetch the file again"


def _flat_name(key: str) -> str:
    # `fc` ends torchvision's ResNets, `head` its transformers.
    last = re.fullmatch(r"(?:fc|head|classifier)\.(\w+)", key)
    return f"trunk.{key}" if last is None else f"head.classifier.{last[1]}"


def _wrapped_name(key: str) -> str:
    part = re.fullmatch(r"features\.([0-4])\.(.+)", key)
    if part is not None:
        return f"trunk.{_WRAPPED_TRUNK[part[1]]}.{part[2]}"
    for pattern, name in _WRAPPED_HEAD.items():
        if (match := re.fullmatch(pattern, key)) is not None:
            return f"head.{match.expand(name)}"
    return key  # unknown: reported as it stands in the file

"""What rewriting for inference and bfloat16 save: R(2+1)D against plain 3D convolutions, forward and in training.

python benchmarks/inference.py --out inference.json [--small] [--device cuda] [--part inference]

Plain is what torchvision's modules do: `nn.Conv3d` over (B, C, T, H, W), normalisations as layers, the same weights.
A CPU without bfloat16 units does bfloat16 in slow general code, so there it is measured on a smaller clip.
"""

import copy
import functools
import types
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from side_by_side import in_turn, print_ratio, ratio, write_report
from torch import nn

from pipeline.inference.rates import matmul_flops
from pipeline.models.classifier import build_classifier
from pipeline.models.inference_form import for_inference
from pipeline.training.machine import set_up_machine
from pipeline.training.precision import bf16_mismatches

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "avx_ne_convert")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert"}
FULL, SMALL = ("r2plus1d_34", 1, 64, 112), ("r2plus1d_34", 1, 8, 56)  # model, B, T, S
STEP, SMALL_STEP = ("r2plus1d_18", 2, 16, 112), ("r2plus1d_18", 1, 8, 56)
PLAIN, LAST = "plain Conv3d, fp32", "plain Conv3d, channels last, fp32"
TRAINING, FOLDED, FOLDED16 = "training form, fp32", "inference form, fp32", "inference form, bf16"


def cpu_flags():
    """Of the instruction sets that matter here, those that this CPU has; empty where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    flags = next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), [])
    return [name for name in FLAGS if name in flags]


def make(size, device):
    """A classifier whose normalisations do something, and normalised views for it."""
    name, batch, frames, side = size
    classifier = build_classifier(name, num_classes=11, num_frames=frames, head_dropout=0.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return classifier.to(device), torch.randn(batch, 3, frames, side, side, generator=generator).to(device)


def plain_form(classifier):
    """The same network of `nn.Conv3d` as it comes, in the layout of its input."""
    plain = copy.deepcopy(classifier)
    for module in plain.modules():
        if isinstance(module, nn.Conv3d):
            module.forward = functools.partial(nn.Conv3d.forward, module)
    plain.trunk.forward = types.MethodType(
        lambda self, x: self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x))))), plain.trunk
    )
    return plain


def inference_forms(size, device, bf16):
    """Name -> call that gives logits."""
    classifier, x = make(size, device)
    classifier.eval()
    plain, folded = plain_form(classifier), for_inference(classifier)
    x_last = x.contiguous(memory_format=torch.channels_last_3d)
    plain_last = plain_form(classifier).to(memory_format=torch.channels_last_3d)
    forms = {
        PLAIN: lambda: plain(x),
        LAST: lambda: plain_last(x_last),
        TRAINING: lambda: classifier(x),
        FOLDED: lambda: folded(x),
    }
    if bf16:
        rounded = for_inference(classifier, precision="bf16")
        forms[FOLDED16] = lambda: rounded(x)
    if device.type == "cuda":
        forms |= {f"{name}, TF32": with_tf32(forms[name]) for name in (PLAIN, FOLDED)}
    return forms


def training_forms(size, device):
    """Name -> call that makes all gradients of one step, and gives them as one vector."""
    classifier, x = make(size, device)
    plain = plain_form(classifier)
    labels = torch.arange(len(x), device=device)

    def step(model, precision="fp32"):
        model.train().zero_grad(set_to_none=True)
        torch.manual_seed(0)  # the head's dropout
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(x)
        F.cross_entropy(logits.float(), labels).backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])

    forms = {PLAIN: lambda: step(plain), TRAINING: lambda: step(classifier)}
    if device.type == "cuda":
        forms |= {f"{name}, TF32": with_tf32(call) for name, call in forms.items()}
        forms["training form, bf16"] = lambda: step(classifier, "bf16")
    return forms


def with_tf32(call):
    """The call with TensorFloat-32 switched on."""

    def run():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        try:
            return call()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    return run


def compare(title, forms, *, rounds, device, wanted):
    """Times in turn, ratios to plain and to channels last, and how far results lie from plain; printed and given."""

    def waited(call):
        def run():
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    results = {name: call().detach().double() for name, call in forms.items()}
    reference = results[PLAIN]
    off = {name: ((each - reference).abs().max() / reference.abs().max()).item() for name, each in results.items()}
    seconds = in_turn({name: waited(call) for name, call in forms.items()}, rounds=rounds)
    ratios = {}
    print(title)
    for name, times in seconds.items():
        print(f"  {name:58} {sorted(times)[len(times) // 2]:6.3f} s, largest difference {off[name]:.1e} of the largest")
    for base in (PLAIN, LAST):
        for name in seconds:
            if base in seconds and name not in (PLAIN, LAST):
                found = ratio(seconds[base], seconds[name])
                ratios[f"{base} / {name}"] = found
                print_ratio(f"{base} / {name}", found, wanted=wanted.get((base, name), ""))
    return {"seconds": seconds, "ratios": ratios, "largest_relative_difference": off}


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON to write.")
@click.option("--small", is_flag=True, help="Small clips, in seconds.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads.")
@click.option("--rounds", type=click.IntRange(6), default=7, show_default=True, help="Rounds of each comparison.")
@click.option("--part", type=click.Choice(["both", "inference", "training"]), default="both", show_default=True)
def main(out, small, device, threads, rounds, part):
    """Compare the forms of R(2+1)D in turn; print and save the figures."""
    chosen, flags = set_up_machine(device, threads), cpu_flags()
    units = chosen.type == "cuda" or bool(BF16_FLAGS & set(flags))
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"CPU with {', '.join(flags) or 'unknown'}"
    rates = {precision: matmul_flops(chosen, precision) for precision in ("fp32", "bf16")}
    wrong = [f"{each.what} over {each.frames} frames" for each in bf16_mismatches(chosen)]
    print(f"{name}; bfloat16 units: {'yes' if units else 'no'}; threads: {threads}; torch {torch.__version__}")
    print(f"matrix products: fp32 {rates['fp32'] / 1e9:.1f}, bf16 {rates['bf16'] / 1e9:.1f} GFLOP/s")
    print(f"wrong in bf16: {'; '.join(wrong) or 'nothing'}")
    report = {"device": name, "threads": threads, "flags": flags, "matmul_flops": rates, "wrong_in_bf16": wrong}
    size, step = (SMALL, SMALL_STEP) if small else (FULL, STEP)
    more = {"rounds": rounds, "device": chosen}
    wanted = {(PLAIN, FOLDED): "at least 1.9", (PLAIN, FOLDED16): "at least 4", (LAST, FOLDED): "at least 1"}
    if part != "training":
        with torch.inference_mode():
            report["inference"] = compare(describe(size), inference_forms(size, chosen, units), **more, wanted=wanted)
            if not units:
                forms = inference_forms(SMALL, chosen, True)
                forms = {name: forms[name] for name in (PLAIN, FOLDED, FOLDED16)}
                title = f"{describe(SMALL)}, without bfloat16 units"
                report["bf16_without_units"] = compare(title, forms, **more, wanted=wanted)
    if part != "inference":
        wanted = {(PLAIN, TRAINING): "at least 2 on a GPU", (PLAIN, "training form, bf16"): "at least 2"}
        report["training"] = compare(
            f"gradients of one step, {describe(step)}", training_forms(step, chosen), **more, wanted=wanted
        )
    write_report(out, report)


def describe(size):
    """A line's title."""
    name, batch, frames, side = size
    return f"{name} with attention head, {batch}x3x{frames}x{side}x{side}"


if __name__ == "__main__":
    main()

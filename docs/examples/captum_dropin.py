"""Captum's Occlusion without waiting: another import, the same call, the same attributions.

``python captum_dropin.py`` shows it on a small network in seconds. With ``--full`` it compares both
on VGG16 with window (3, 16, 16) and stride (3, 4, 4), which takes some minutes: there Captum is
given the batch size that is fastest on this machine, is run with stride (3, 16, 16), and its time
per window is multiplied by the number of windows.
"""

import argparse
import time

import captum.attr
import torch
from torch import nn

import kqo
import kqo.captum


def timed(call):
    """Seconds that a call took, and what it returned."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def best_batch(model: nn.Module, image: torch.Tensor, batches: list[int]) -> int:
    """The number of windows per call at which the network is fastest, per window."""
    seconds = {}
    with torch.inference_mode():
        for batch in batches:
            inputs = image.repeat(batch, 1, 1, 1)
            model(inputs)
            seconds[batch] = min(timed(lambda x=inputs: model(x))[0] for _ in range(2)) / batch
    return min(seconds, key=seconds.__getitem__)


def windows(size: int, window: int, stride: int) -> int:
    """Number of windows on a square image."""
    return (-(-(size - window) // stride) + 1) ** 2


arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--full", action="store_true", help="VGG16 at 224x224; takes minutes")
full = arguments.parse_args().full

torch.manual_seed(0)
model = kqo.zoo.build("vgg16", width=1.0 if full else 0.05)
size, window, stride, coarse = (224, 16, 4, 16) if full else (64, 16, 8, 16)
image = torch.randn(1, 3, size, size)
target = int(model(image).argmax())

# The only change to a program that uses Captum: kqo.captum in place of captum.attr.
own, other = kqo.captum.Occlusion(model), captum.attr.Occlusion(model)
asked = {"sliding_window_shapes": (3, window, window), "target": target}

batch = best_batch(model, image, [1, 2, 4, 8, 16, 32])
captum_seconds, wanted = timed(
    lambda: other.attribute(
        image, strides=(3, coarse, coarse), perturbations_per_eval=batch, **asked
    )
)
found = own.attribute(image, strides=(3, coarse, coarse), **asked)
worst = float((found - wanted).abs().max() / wanted.abs().max())
assert worst < 1e-4, worst
print(f"largest difference: {worst:.1e} of the largest attribution")

first, _ = timed(lambda: own.attribute(image, strides=(3, stride, stride), **asked))
again, _ = timed(lambda: own.attribute(image, strides=(3, stride, stride), **asked))
count = windows(size, window, stride)
per_window = captum_seconds / windows(size, window, coarse)
print(f"{count} windows, stride {stride}, {torch.get_num_threads()} threads of PyTorch")
print(f"kqo: {first:.2f} s, with planning; {again:.2f} s for further images")
print(f"Captum: {per_window * count:.2f} s, {batch} windows per call, from {per_window:.4f} s each")
print(f"{per_window * count / again:.1f} times as fast")

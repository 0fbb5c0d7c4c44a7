"""A plan as a file: compile where the model is, run where it is not. Loading needs no torch."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import kqo
from kqo.interop.images import load_image

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 121, 3)
).eval()

preprocess = kqo.Preprocess(size=(24, 24), mean=(0.5,), std=(0.25,), classes=("cat", "dog", "eel"))
plan = kqo.compile(
    model,
    (torch.zeros(1, *preprocess.shape),),
    kqo.Occlusion(window=6, stride=3),
    name="small",
    preprocess=preprocess,
)
plan.save("small.kqo")

# Elsewhere, with nothing but the file:
pixels = np.random.default_rng(0).integers(0, 256, size=(60, 80, 3), dtype=np.uint8)
Image.fromarray(pixels).save("photo.png")
loaded = kqo.load("small.kqo")
result = loaded.run(load_image("photo.png", loaded.preprocess))
result.to_npz("photo.npz")
print(result.class_name(int(result.predicted())), Path("photo.npz").stat().st_size, "bytes")

"""Windows where you want them: a rectangle, chosen positions, several sizes in one workload."""

import numpy as np
import torch
from torch import nn

import kqo

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 144, 4)
).eval()
image = torch.randn(1, 1, 24, 24)

# Window starts only from rows 4 to 11 and columns 8 to 15, on the grid of the whole image.
rectangle = kqo.Occlusion(window=6, stride=2, roi=((4, 12), (8, 16)))
heat = kqo.compile(model, (image,), rectangle).run(image).heatmap()
print(f"rectangle: grid {heat.shape}, {np.isfinite(heat).sum()} cells of it asked")

# Two positions, each (row, column) of a window's corner; the fill is the image's mean.
chosen = kqo.Occlusion(window=6, stride=2, positions=[[3, 5], [10, 10]], fill="mean")
print("chosen positions:", kqo.compile(model, (image,), chosen).run(image).scores.shape)

# Two sizes of window at once, and one query that hides two places together.
shape = (1, 24, 24)
several = (
    kqo.Occlusion(4, 4).regions(shape)
    + kqo.Occlusion(8, 8).regions(shape)
    + kqo.Regions([[((0, 4), (0, 4)), ((20, 24), (20, 24))]])
)
result = kqo.compile(model, (image,), several).run(image)
print("several sizes:", result.scores.shape, "attribution", result.attribution().shape)

"""Occlusion of a time series: which stretch of a signal a 1-D network looks at."""

import torch
from torch import nn

import kqo

torch.manual_seed(0)
model = nn.Sequential(  # stands for your model: (N, leads, samples) to scores
    nn.Conv1d(2, 8, 7, stride=2, padding=3),
    nn.BatchNorm1d(8),
    nn.ReLU(),
    nn.MaxPool1d(2),
    nn.Conv1d(8, 16, 5, padding=2),
    nn.ReLU(),
    nn.Conv1d(16, 16, 5, padding=2),
    nn.ReLU(),
    nn.AdaptiveAvgPool1d(1),
    nn.Flatten(),
    nn.Linear(16, 3),
).eval()
signal = torch.randn(1, 2, 2000)

# All leads at once, in stretches of 100 samples that move by 25.
plan = kqo.compile(model, (signal,), kqo.Occlusion(window=100, stride=25, fill="mean"))
result = plan.run(signal, verify=8)
heatmap = result.heatmap()
print("stretches:", heatmap.shape, "the one that matters most:", int(heatmap.argmin()) * 25)

# Every class from the same run, and each lead by itself.
drops = [result.drops(target=c).max() for c in range(3)]
print("largest drop of each class:", [round(float(drop), 4) for drop in drops])
leads = kqo.compile(model, (signal,), kqo.Occlusion(window=(1, 100), stride=(1, 25), fill="mean"))
print("by lead:", leads.run(signal).heatmap().shape)

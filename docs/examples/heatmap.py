"""A heatmap of a model of your own: compile once, run on an image, read the result."""

import torch
from torch import nn

import kqo


class Classifier(nn.Module):
    """Stands for your model: any nn.Module in eval mode that maps (N, C, H, W) to scores."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classify = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(x).flatten(1))


torch.manual_seed(0)
model = Classifier().eval()
image = torch.randn(1, 3, 48, 48)

plan = kqo.compile(model, (image,), kqo.Occlusion(window=8, stride=4))
print(plan.explain())

result = plan.run(image, verify=8)  # eight queries are run again in full and compared
print("predicted class:", int(result.predicted()))
print("heatmap:", result.heatmap().shape, "lowest where the hidden part mattered most")
print("attribution:", result.attribution().shape, "per input element, as Captum averages it")

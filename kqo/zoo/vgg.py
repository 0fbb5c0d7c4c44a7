"""VGG16 (Simonyan and Zisserman, 2015, configuration D)."""

from __future__ import annotations

from torch import Tensor, nn

from kqo.zoo.width import scaled

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """VGG16 for inputs (N, 3, 224, 224); any size of at least 32 works."""

    def __init__(self, num_classes: int, width: float, hidden: int | None = None) -> None:
        """``hidden`` is the width of the linear layers, by default that of 4096 at this width."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in _STAGES:
            for wanted in stage:
                out = scaled(wanted, width)
                layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True)]
                channels = out
            layers.append(nn.MaxPool2d(2, 2))
        hidden = scaled(4096, width) if hidden is None else hidden
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(channels * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        x = self.avgpool(self.features(x)).flatten(1)
        logits: Tensor = self.classifier(x)
        return logits

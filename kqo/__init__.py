"""kqo: a query optimizer for convolutional networks.

Compile a PyTorch CNN and a workload of almost identical queries into an incremental plan::

    import kqo
    model = kqo.zoo.build("vgg16")
    plan = kqo.compile(model, (image,), kqo.Occlusion(window=16, stride=4))
    result = plan.run(image)
    result.heatmap()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kqo.errors import KqoError

if TYPE_CHECKING:
    from kqo import zoo
    from kqo.api import CompiledPlan, compile, load
    from kqo.approximate.run import Interrupted
    from kqo.interop.preprocess import Preprocess
    from kqo.options import Options
    from kqo.profile import Profile
    from kqo.runtime.result import Result
    from kqo.workloads import Occlusion, Regions

__version__ = "0.1.0"
__all__ = [
    "CompiledPlan",
    "Interrupted",
    "KqoError",
    "Occlusion",
    "Options",
    "Preprocess",
    "Profile",
    "Regions",
    "Result",
    "compile",
    "load",
    "zoo",
]
_HOMES = {
    "CompiledPlan": "kqo.api",
    "compile": "kqo.api",
    "load": "kqo.api",
    "Occlusion": "kqo.workloads",
    "Regions": "kqo.workloads",
    "Interrupted": "kqo.approximate.run",
    "Options": "kqo.options",
    "Profile": "kqo.profile",
    "Preprocess": "kqo.interop.preprocess",
    "Result": "kqo.runtime.result",
}


def __getattr__(name: str) -> Any:
    # Modules load on first use: `import kqo` stays quick and never imports torch.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("zoo", "captum"):
        return importlib.import_module(f"kqo.{name}")
    raise AttributeError(f"module 'kqo' has no attribute {name!r}")

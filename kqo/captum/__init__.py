"""A drop-in for ``captum.attr.Occlusion`` that runs incrementally where it can.

``from kqo.captum import Occlusion`` in place of ``from captum.attr import Occlusion`` is the whole
change. Captum itself is not needed.
"""

from __future__ import annotations

from kqo.captum.occlusion import DenseFallbackWarning, Occlusion

__all__ = ["DenseFallbackWarning", "Occlusion"]

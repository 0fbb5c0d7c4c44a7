"""Frontend: PyTorch models, by ``torch.export``, to logical plans."""

from kqo.frontend.lower import Lowered, lower

__all__ = ["Lowered", "lower"]

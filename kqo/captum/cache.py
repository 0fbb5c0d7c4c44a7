"""Plans by model and windows, kept between calls while the model's weights stay the same."""

from __future__ import annotations

import copy
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kqo.api import CompiledPlan, compile
from kqo.captum.arguments import Windows
from kqo.errors import KqoError
from kqo.ir.schema import shape
from kqo.options import Options
from kqo.workloads import Occlusion
from kqo.workloads.base import changed_scan

MOST_PLANS = 4
"""Plans hold a copy of the weights and of the activations of one input; few are kept."""


@dataclass(frozen=True)
class Key:
    """What a plan depends on.

    Attributes:
        model: id of the model.
        state: which modules and tensors the model is made of, with the tensors' versions.
        inputs: type and shape without the batch axis of each input.
        occluded: number of the input that the windows slide over.
        windows: these windows.
    """

    model: int
    state: tuple[Any, ...]
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    occluded: int
    windows: Windows


class PlanCache:
    """The most recently used plans, and the reasons why there is none for other keys.

    Args:
        most: number of plans that are kept.
    """

    def __init__(self, most: int = MOST_PLANS) -> None:
        self._most = most
        self._found: OrderedDict[Key, CompiledPlan | KqoError] = OrderedDict()
        self._models: dict[int, weakref.ref[nn.Module]] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._found)

    def plan(
        self, model: nn.Module, tensors: tuple[Tensor, ...], occluded: int, windows: Windows
    ) -> CompiledPlan:
        """The plan for a model, its inputs' shapes, and windows over one input; made if need be.

        Raises:
            KqoError: the model cannot be compiled; said again without another attempt for as long
                as its weights stay the same.
        """
        shapes = tuple((str(t.dtype), tuple(t.shape[1:])) for t in tensors)
        with self._lock:
            self._adopt(model)
            key = Key(id(model), _state(model), shapes, occluded, windows)
            if key not in self._found:
                self._drop(lambda k: k.model == key.model and k.state != key.state)
                self._found[key] = self._made(model, tensors, key)
                while len(self._found) > self._most:
                    self._found.popitem(last=False)
            self._found.move_to_end(key)
            found = self._found[key]
        if isinstance(found, KqoError):
            raise found
        return found

    def forget(self, model: nn.Module) -> None:
        """Drop every plan of a model."""
        with self._lock:
            self._drop(lambda key: key.model == id(model))

    def _adopt(self, model: nn.Module) -> None:
        """Plans of a model go with it, before another object gets its id."""
        number = id(model)
        known = self._models.get(number)
        if known is None or known() is not model:
            self._drop(lambda key: key.model == number)
            self._models[number] = weakref.ref(model, lambda _: self._gone(number))

    def _gone(self, number: int) -> None:
        with self._lock:
            known = self._models.get(number)
            if known is not None and known() is None:
                del self._models[number]
                self._drop(lambda key: key.model == number)

    def _drop(self, which: Any) -> None:
        for key in [k for k in self._found if which(k)]:
            del self._found[key]

    def _made(
        self, model: nn.Module, tensors: tuple[Tensor, ...], key: Key
    ) -> CompiledPlan | KqoError:
        over = key.windows
        workload = Occlusion(over.shape, over.stride, fill="given", input=key.occluded)
        for other, known in self._found.items():
            same = (other.model, other.state, other.inputs) == (key.model, key.state, key.inputs)
            if same and isinstance(known, CompiledPlan):
                return _asking(known, workload)
        try:
            # A plan that held the model would keep it from going.
            return compile(model, tensors, workload, Options(reinference="never"))
        except KqoError as error:
            return error


def _asking(plan: CompiledPlan, workload: Occlusion) -> CompiledPlan:
    """The plan of the same model for another workload, without exporting it again."""
    found = copy.copy(plan)  # leaves out what was planned, as a pickled plan does
    found.workload = workload
    found.scan = changed_scan(plan.logical, workload.input)
    found.placed = workload.resolve(shape(found.scan.axes))
    return found


def _state(model: nn.Module) -> tuple[Any, ...]:
    modules = tuple((name, id(module)) for name, module in model.named_modules())
    tensors = (*model.named_parameters(), *model.named_buffers())
    return modules, tuple((name, id(t), t.data_ptr(), _version(t)) for name, t in tensors)


def _version(tensor: Tensor) -> int:
    # Tensors made in inference mode have no version; outputs are compared with the model's anyway.
    return -1 if tensor.is_inference() else int(tensor._version)

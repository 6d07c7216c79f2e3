"""A second device where there is none: tensors that compute on the CPU and refuse to be mixed.

``python -m tests.elsewhere`` runs every metric, recovery and width method on it and prints, for
each, nothing, or what went wrong. What a GPU would refuse is refused: operations on tensors of both
devices, a generator of the CPU, and ``numpy()``. Registering a device holds for the whole process,
so it has one of its own.
"""

from __future__ import annotations

import json
import traceback
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

backend_registration._setup_privateuseone_for_python_backend("elsewhere")
DEVICE = torch.device("elsewhere:0")
ATEN = torch.ops.aten
MOVES = {ATEN.copy_.default, ATEN._to_copy.default, ATEN._local_scalar_dense.default}
INDEXED = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default}
"""Indices may lie on the CPU, as a GPU has it."""


class Mixed(RuntimeError):
    """What a GPU would refuse."""


class Far(torch.Tensor):
    """A tensor that says it is elsewhere; ``near`` holds its values on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Far:
        layout = {"strides": near.stride(), "storage_offset": near.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), dtype=near.dtype, device=DEVICE, **layout
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None):
        return _run(operation, args, kwargs or {})

    def untyped_storage(self) -> Any:
        return self.near.untyped_storage()

    def data_ptr(self) -> int:
        return self.near.data_ptr()

    def tolist(self) -> Any:
        return self.near.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise Mixed("numpy() of a tensor that is not on the CPU")

    __array__ = numpy

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied: Any = Far(self.near.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)


class Elsewhere(TorchDispatchMode):
    """Inside, tensors can be made and moved elsewhere."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None):
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    far = any(isinstance(x, Far) for x in tensors)
    if far and operation not in MOVES:
        compared = args[:1] if operation in INDEXED else tensors
        near = [x for x in compared if not isinstance(x, Far) and x.dim()]
        if near:
            raise Mixed(f"{operation}: {[tuple(x.shape) for x in near]} on the CPU, others not")
    asked = kwargs.get("device")
    if asked is not None:
        far = torch.device(asked).type == "elsewhere"
        kwargs = {**kwargs, "device": torch.device("cpu") if far else asked}
    if far and kwargs.get("generator") is not None:
        raise Mixed(f"{operation}: a generator of the CPU")
    plain = tree_map(lambda x: x.near if isinstance(x, Far) else x, (args, kwargs))
    result = operation(*plain[0], **plain[1])
    written = [a for a in operation._schema.arguments if a.alias_info and a.alias_info.is_write]
    returned = operation._schema.returns
    if written and len(returned) == 1 and returned[0].alias_info:
        place = operation._schema.arguments.index(written[0])
        return args[place] if place < len(args) else kwargs[written[0].name]
    return (
        tree_map(lambda x: Far(x) if isinstance(x, torch.Tensor) else x, result) if far else result
    )


def main() -> None:
    """Print what went wrong with each method, as JSON."""
    from fusegpt.importance import METRICS
    from fusegpt.models.model import Model
    from fusegpt.recovery import RECOVERIES
    from fusegpt.slicegpt import WIDTHS
    from tests import tiny
    from tests.contracts.test_metrics import measure
    from tests.contracts.test_recoveries import recover

    def model() -> Model:
        made = tiny.model("llama")
        made.module.to(DEVICE)
        assert made.device == DEVICE
        return made

    def width(name: str) -> None:
        method = WIDTHS[name]
        batches = [tiny.ids(2, 12, seed=3), tiny.ids(2, 12, seed=4)]
        method.load()(model(), batches, "0.3", method.schema(), seed=0)

    def metric(name: str) -> None:
        batches = [tiny.ids(1, 6)]
        here, there = (measure(name, made, batches) for made in (tiny.model("llama"), model()))
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-5)

    backend = torch.elsewhere  # type: ignore[attr-defined]
    backend.get_rng_state = lambda *args: torch.get_rng_state()
    backend.set_rng_state = lambda *args: None
    steps = [name for name, entry in RECOVERIES.items() if entry.schema.when == "step"]
    work = [("metric", metric, METRICS), ("width", width, WIDTHS)]
    work.append(("recovery", lambda name: recover(name, model()), steps))
    found = {"mixed": "nothing was refused"}
    with Elsewhere():
        try:
            torch.ones(2).to(DEVICE) + torch.ones(2)
        except Mixed:
            found["mixed"] = ""
        for kind, run, names in work:
            for name in names:
                try:
                    run(name)
                    found[f"{kind} {name}"] = ""
                except Exception:
                    found[f"{kind} {name}"] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""The two sublayers of a block: which of its modules are its attention, and which its mlp.

No name is looked up. A few tokens run through a block, NaN is put into one module's output, and
where it arrives shows what reads what. A module is the end of a branch when nothing behind it but
the addition to the hidden states reads it; what only it reads belongs to the branch. The branch
that carries something from one token to the next is the attention, whatever its class is called
(state spaces and convolutions too); the rest is the mlp, experts included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fusegpt.errors import ArchitectureError
from fusegpt.models.parts import Branches, Sublayer
from fusegpt.models.structure.calls import Call
from fusegpt.models.sublayers import Removed

__all__ = ["Branches", "Probe", "Sublayer"]


@dataclass
class Probe:
    """One block under examination.

    Attributes:
        block: In eval mode.
        call: How the model calls it.
        hidden: ``[batch, seq, hidden]`` that enter it.
    """

    block: nn.Module
    call: Call
    hidden: Tensor
    returns: dict[str, int] = field(default_factory=dict)
    """Children with parameters that ran, and how long a tuple they return."""
    ends: list[str] = field(default_factory=list)
    """Those of them whose output has the shape of the hidden states."""

    def branches(self) -> Branches:
        """Return the block's branches.

        Raises:
            ArchitectureError: It has no two branches that can be told apart; says why.
        """
        self._look()
        plain = self.run()
        live = [name for name in self.returns if not torch.equal(self.run(spoil=[name]), plain)]
        behind = {
            end: [n for n in live if n != end and not self._reaches(n, zero=[end])]
            for end in self.ends
            if end in live
        }
        inner = {name for names in behind.values() for name in names}
        tops = [end for end, names in behind.items() if end not in inner and self._owns(end, names)]
        if not torch.equal(self.run(zero=tops), self.hidden):
            raise ArchitectureError(
                "its parts do not just add to the hidden states (a norm after the addition, or an"
                " addition inside a part); only whole blocks can go"
            )
        mixing = [top for top in tops if self._mixes([other for other in tops if other != top])]
        rest = [top for top in tops if top not in mixing]
        sublayers = {
            kind: Sublayer(
                {end: self.returns[end] for end in ends},
                {n: self.returns[n] for n in live if n in {m for e in ends for m in behind[e]}},
            )
            for kind, ends in (("attention", mixing), ("mlp", rest))
            if ends
        }
        self._check_both(sublayers)
        return Branches(sublayers, any(self._feeds(mixing, end) for end in rest))

    def run(
        self, *, zero: Sequence[str] = (), spoil: Sequence[str] = (), hidden: Tensor | None = None
    ) -> Tensor:
        """Run the block, some children's outputs replaced by zeros or by NaN."""
        values = dict.fromkeys(spoil, float("nan")) | dict.fromkeys(zero, 0.0)
        handles = [
            self.block.get_submodule(name).register_forward_hook(_replacing(value))
            for name, value in values.items()
        ]
        try:
            return self.call.run(self.block, self.hidden if hidden is None else hidden)
        finally:
            for handle in handles:
                handle.remove()

    def _look(self) -> None:
        """Note which children run, and what they return."""

        def after(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                several = isinstance(output, (tuple, list))
                first = output[0] if several else output
                if isinstance(first, Tensor):
                    self.returns[name] = len(output) if several else 0
                    if first.numel() == self.hidden.numel() and first.is_floating_point():
                        self.ends += [name] if first.shape[-1] == self.hidden.shape[-1] else []

            return hook

        handles = [
            child.register_forward_hook(after(name))
            for name, child in self.block.named_children()
            if any(True for _ in child.parameters())
        ]
        try:
            self.call.run(self.block, self.hidden)
        finally:
            for handle in handles:
                handle.remove()

    def _reaches(self, name: str, zero: Sequence[str]) -> bool:
        """Whether NaN from a child arrives at the end of the block."""
        return bool(self.run(spoil=[name], zero=zero).isnan().any())

    def _owns(self, end: str, behind: Sequence[str]) -> bool:
        modules = [self.block.get_submodule(name) for name in (end, *behind)]
        return any(p.dim() >= 2 for module in modules for p in module.parameters())

    def _mixes(self, others: Sequence[str]) -> bool:
        """Whether one token's NaN arrives at later ones, with all other ends silent."""
        hidden = self.hidden.clone()
        hidden[:, 0] = float("nan")
        return bool(self.run(zero=others, hidden=hidden)[:, 1:].isnan().any())

    def _feeds(self, sources: Sequence[str], end: str) -> bool:
        """Whether NaN from some children arrives in what another one puts out."""
        seen: list[bool] = []

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, (tuple, list)) else output
            seen.append(bool(value.isnan().any()))  # at once: some add to it in place

        handle = self.block.get_submodule(end).register_forward_hook(hook)
        try:
            self.run(spoil=sources)
        finally:
            handle.remove()
        return any(seen)

    def _check_both(self, sublayers: dict[str, Sublayer]) -> None:
        gone = any(isinstance(child, Removed) for child in self.block.children())
        missing = [kind for kind in ("attention", "mlp") if kind not in sublayers]
        if missing and not gone:
            raise ArchitectureError(
                f"it has no {missing[0]} that adds to the hidden states; only whole blocks can go"
            )


def _replacing(value: float) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, (tuple, list)):
            return type(output)([torch.full_like(output[0], value), *output[1:]])
        return torch.full_like(output, value)

    return hook

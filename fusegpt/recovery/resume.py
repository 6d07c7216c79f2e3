"""A training run's state on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusegpt.artifacts import atomic_path
from fusegpt.errors import ArtifactError, first_line
from fusegpt.parallel import leads
from fusegpt.results.digests import KEY
from fusegpt.results.unfinished import FINGERPRINT, ROWS, STEPS, check_unfinished, state_digest

__all__ = ["Checkpoint", "parameters_of"]

logger = logging.getLogger(__name__)

MOMENTS = ("exp_avg", "exp_avg_sq")
ATTEMPT, KEPT = "attempt", "kept."
"""Key of the metadata, absent for the first attempt; beginning of the names of kept tensors."""
SECONDS = "seconds"
"""Key of the metadata: what all runs up to the save took; files of before version 0.2 lack it."""


class Checkpoint:
    """One safetensors file: parameters, Adam's moments and the rows so far; replaced by rename.

    The schedule and the order of batches are functions of the step number, and nothing random
    happens inside a step, so the number of rows says all about the position.

    Args:
        path: The file; belongs to this run alone.
        fingerprint: Names everything the run depends on. A file with another one is ignored.
        every_seconds: Least time between two saves.

    Attributes:
        attempt: How often the training was begun anew before; a file of another attempt is
            not resumed.
        kept: Tensors of the caller's, which are saved and resumed with the rest.
        before: Seconds that earlier runs took for what this one goes on with.
    """

    def __init__(self, path: Path, fingerprint: str, *, every_seconds: float = 60.0) -> None:
        self.path = Path(path)
        self.fingerprint = fingerprint
        self.every_seconds = every_seconds
        self.last = self._began = time.monotonic()
        self.before = 0.0
        self.attempt = 0
        self.kept: dict[str, Tensor] = {}
        self._said = ""

    def begin(self) -> None:
        """Count this run's seconds from here."""
        self._began = time.monotonic()

    def reached(self) -> int:
        """Return the attempt that the file is of; 0 when no file fits."""
        about = self._about()
        return int(about.get(ATTEMPT, 0)) if about.get(FINGERPRINT) == self.fingerprint else 0

    def resume(self, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
        """Load parameters and moments in place and return the rows; nothing when no file fits.

        A file that is damaged, or not what its digest says, is as good as none.
        """
        about = self._about()
        if about and about.get(FINGERPRINT) != self.fingerprint:
            logger.info("ignoring %s: it belongs to other settings or inputs", self.path)
            return []
        if not about or int(about.get(ATTEMPT, 0)) != self.attempt:
            return []
        try:
            with safe_open(self.path, framework="pt") as file:
                names = set(file.keys())
                numbered = enumerate(parameters_of(optimizer))
                fused = bool(optimizer.defaults.get("fused"))
                states = [_state(file, names, *each, fused=fused) for each in numbered]
                kept = [name for name in names if name.startswith(KEPT)]
                self.kept.update({x.removeprefix(KEPT): file.get_tensor(x) for x in kept})
            rows: list[dict[str, Any]] = json.loads(about[ROWS])
            before = float(about.get(SECONDS, 0))
        except (OSError, SafetensorError, LookupError, ValueError) as error:
            self._starts_again(f"{self.path}: not a readable resume file ({first_line(error)})")
            return []
        for parameter, (value, state) in zip(parameters_of(optimizer), states, strict=True):
            parameter.data.copy_(value)
            optimizer.state[parameter] = state
        self.before = before
        logger.info("resumed after optimiser step %d from %s", len(rows), self.path)
        return rows

    def _about(self) -> dict[str, str]:
        """The metadata of a file that is what was written; empty: there is none."""
        if not self.path.is_file():
            return {}
        try:
            if not check_unfinished(self.path):
                logger.info("%s: no digest recorded; taken as it is", self.path)
            with safe_open(self.path, framework="pt") as file:
                return dict(file.metadata() or {})
        except ArtifactError as error:
            self._starts_again(str(error))
        except (OSError, SafetensorError) as error:
            self._starts_again(f"{self.path}: not a readable resume file ({first_line(error)})")
        return {}

    def _starts_again(self, reason: str) -> None:
        """Say so, once."""
        if reason != self._said:
            logger.warning("%s; the tuning starts again", reason)
        self._said = reason

    def save_when_due(
        self, optimizer: torch.optim.Optimizer, rows: list[dict[str, Any]], steps: int, now: float
    ) -> None:
        """Save if the last save is long enough ago; ``steps``: how many rows there will be."""
        if now - self.last >= self.every_seconds:
            self.save(optimizer, rows, steps)
            self.last = time.monotonic()

    def save(
        self, optimizer: torch.optim.Optimizer, rows: list[dict[str, Any]], steps: int
    ) -> None:
        """Write the state beside the file and rename it into place; of several, the leader does."""
        if not leads():
            return
        tensors: dict[str, Tensor] = {}
        for number, parameter in enumerate(parameters_of(optimizer)):
            tensors[f"{number}.value"] = parameter.detach().cpu().contiguous()
            for key, value in optimizer.state[parameter].items():
                tensors[f"{number}.{key}"] = value.detach().cpu().contiguous()
        tensors |= {f"{KEPT}{name}": value.cpu() for name, value in self.kept.items()}
        about = {FINGERPRINT: self.fingerprint, ROWS: json.dumps(rows), STEPS: str(steps)}
        about |= {ATTEMPT: str(self.attempt)} if self.attempt else {}
        about[SECONDS] = f"{self.before + time.monotonic() - self._began:.3f}"
        about[KEY] = state_digest(
            about, ((n, t.shape, _bytes(t)) for n, t in sorted(tensors.items()))
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as partial:
            save_file(tensors, partial, metadata=about)

    def remove(self) -> None:
        """Delete the file; the run has ended well."""
        self.path.unlink(missing_ok=True)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Return all parameters of an optimiser, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _state(
    file: Any, names: Set[str], number: int, parameter: torch.nn.Parameter, *, fused: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """A parameter's value and its entry in the optimiser, as a file has them.

    One that has had no gradient has no entry: data may pass over a block. A fused optimiser counts
    its steps on the parameter's device, another one on the CPU.
    """
    value = file.get_tensor(f"{number}.value")
    if value.shape != parameter.shape:
        raise ValueError(f"parameter {number} has shape {list(value.shape)}")
    if f"{number}.step" not in names:
        return value, {}
    step = file.get_tensor(f"{number}.step")
    state = {"step": step.to(parameter.device) if fused else step}
    for moment in MOMENTS:
        state[moment] = file.get_tensor(f"{number}.{moment}").to(parameter.device)
    return value, state


def _bytes(tensor: Tensor) -> Any:
    """The bytes of a tensor on the CPU, not copied."""
    return tensor.detach().flatten().view(torch.uint8).numpy()

"""A complete recipe: a method with every setting, and the id that names its results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fusegpt.config import Dtype, StoredDtype
from fusegpt.errors import ConfigError
from fusegpt.importance.settings import MetricSettings
from fusegpt.pruning.sections import (
    METHODS,
    Calibration,
    Rerank,
    WidthCalibration,
    WindowsSpec,
)
from fusegpt.recovery.settings import RecoverySettings
from fusegpt.recovery.settings.finish import FinishSettings
from fusegpt.recovery.settings.whole import NoRecovery
from fusegpt.slicegpt.settings import WidthSettings
from fusegpt.units import KINDS, Granularity, Unit

__all__ = ["Recipe", "Role"]

SCHEMA_VERSION = 1

Role = Literal["calibration", "finetune", "finish"]


@dataclass(frozen=True)
class Recipe:
    """A pruning method with every setting that its result depends on, but the sparsity.

    A recipe that slices widths has ``width`` and ``width_method``, and nothing to score, select or
    recover: its metric is empty and its recovery is ``none``.

    Attributes:
        name: Name of the file it came from.
        metric: Key of ``METRICS``.
        importance: Settings of the metric.
        method: Key of ``RECOVERIES``.
        recovery: Settings of the recovery.
        selection: How units are chosen, as in ``Sections``.
        keep_pattern: Whether what remains keeps the kinds that programs compute by number.
        rerank: How the best candidates are tried; ``None``: the lowest score goes.
        granularity: What is removed.
        calibration: Windows for scoring, or for the signals of a width method.
        finetune: Windows for recovery.
        dtype: Type of frozen weights and computation.
        checkpoint_dtype: Type that weights are stored in.
        seed: Seed of everything that is drawn.
        chain: Name of the recipe that the steps before the finish belong to; None: its own name.
        finish_method: Key of ``FINISHES``; ``None``: nothing follows the last removal.
        finish: Settings of the finish.
        finish_windows: Windows for the finish.
        width_method: Key of ``WIDTHS``; ``None``: units are removed.
        width: Settings of the width method.
    """

    name: str
    metric: str
    importance: MetricSettings
    method: str
    recovery: RecoverySettings
    selection: Literal["iterative", "one_shot", "contiguous"] = "iterative"
    keep_pattern: bool = False
    rerank: Rerank | None = None
    granularity: Granularity = "block"
    calibration: WindowsSpec = Calibration()
    finetune: WindowsSpec = WindowsSpec()
    dtype: Dtype = "bfloat16"
    checkpoint_dtype: StoredDtype = "source"
    seed: int = 0
    chain: str | None = None
    finish_method: str | None = None
    finish: FinishSettings | None = None
    finish_windows: WindowsSpec | None = None
    width_method: str | None = None
    width: WidthSettings | None = None

    @classmethod
    def of_width(cls, name: str, method: str, width: WidthSettings, **more: Any) -> Recipe:
        """Return a recipe that slices widths; ``more``: calibration, dtype, seed."""
        nothing = (MetricSettings(), "none", NoRecovery())
        values = {"calibration": WidthCalibration(), **more}
        return cls(name, "", *nothing, width_method=method, width=width, **values)

    @property
    def slices(self) -> bool:
        """Whether it slices widths; if not, it removes units."""
        return self.width is not None

    @property
    def roles(self) -> tuple[Role, ...]:
        """Which windows it reads."""
        trains: tuple[Role, ...] = ("finetune",) if self.needs_windows else ()
        last: tuple[Role, ...] = () if self.finish is None else ("finish",)
        return ("calibration", *trains, *last)

    def num_units(self, num_blocks: int) -> int:
        """Return what a sparsity of a model with so many blocks is a fraction of."""
        return num_blocks * len(KINDS[self.granularity])

    def all_units(self, num_blocks: int) -> list[Unit]:
        """Return every unit of a dense model with so many blocks, in order."""
        kinds = KINDS[self.granularity]
        return [Unit(kind, index) for index in range(num_blocks) for kind in kinds]

    @property
    def needs_windows(self) -> bool:
        """Whether recovery, or judging trials of it, needs the fine-tuning windows."""
        tries = self.rerank is not None and self.rerank.candidates > 1
        return self.recovery.needs_windows or tries

    @property
    def recovers_at_end(self) -> bool:
        """Whether recovery works once, on the model as pruned to the end."""
        return self.recovery.when == "end"

    @property
    def steps(self) -> Recipe:
        """The recipe of the steps before the finish; itself where there is none."""
        if self.finish is None:
            return self
        without: dict[str, Any] = {"finish_method": None, "finish": None, "finish_windows": None}
        return dataclasses.replace(self, name=self.chain or self.name, chain=None, **without)

    @property
    def trains_at_end(self) -> bool:
        """Whether anything works on the model as pruned to the end: a finish, or the recovery."""
        return self.finish is not None or self.recovers_at_end

    @property
    def id(self) -> str:
        """``<name>-<8 hex>``: equal ids mean equal results.

        Settings with their default value are left out of the hash, so that a new setting does
        not rename old results.
        """
        settings = _deviations(self.to_json(), self._plain())
        settings.pop("chain", None)
        if not self.needs_windows:
            settings.pop("finetune", None)
        settings["schema_version"] = SCHEMA_VERSION
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"

    def windows(self, role: Role) -> WindowsSpec:
        """Return the windows of a role with the seed filled in."""
        last = self.finish_windows or self.finetune
        spec = {"calibration": self.calibration, "finetune": self.finetune, "finish": last}[role]
        return spec if spec.seed is not None else spec.model_copy(update={"seed": self.seed})

    def trial(self) -> Recipe:
        """Return the recipe of one trial of ``rerank``: fewer windows, epochs, neighbours."""
        assert self.rerank is not None, self.name
        windows = {"sequences": self.rerank.sequences, "rows": None}
        return dataclasses.replace(
            self,
            rerank=None,
            recovery=self.recovery.trial(self.rerank.epochs, self.rerank.group_size),
            finetune=self.finetune.model_copy(update=windows),
        )

    def that_removes(self) -> Recipe:
        """Return the recipe itself.

        Raises:
            ConfigError: It slices widths.
        """
        if self.slices:
            raise ConfigError(
                f"recipes.{self.name}: slices widths; use fusegpt slice, or name it in an"
                " experiment"
            )
        return self

    def that_finishes(self) -> Recipe:
        """Return the recipe itself.

        Raises:
            ConfigError: It has no finish.
        """
        if self.finish is None:
            raise ConfigError(f"recipes.{self.name}: has no finish; use fusegpt merge")
        return self

    def that_merges(self) -> Recipe:
        """Return the recipe itself.

        Raises:
            ConfigError: It has a finish.
        """
        if self.finish is not None:
            raise ConfigError(f"recipes.{self.name}: has a finish; use fusegpt finish")
        return self

    def that_slices(self) -> Recipe:
        """Return the recipe itself.

        Raises:
            ConfigError: It slices no widths.
        """
        if not self.slices:
            raise ConfigError(f"recipes.{self.name}: slices no widths; use fusegpt prune")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return every setting, defaults included; ``read`` takes it.

        Sections that are absent are not there; ``keep_pattern`` and ``checkpoint_dtype`` are only
        where they say something: all are newer than old results, whose recipes have none of them.
        """
        calibration = self.calibration.model_dump()
        if self.width is not None:
            width = {"method": self.width_method, **self.width.model_dump()}
            own: dict[str, Any] = {"width": width, "calibration": calibration}
        else:
            own = {
                "importance": {"metric": self.metric, **self.importance.model_dump()},
                "selection": self.selection,
                **({"keep_pattern": True} if self.keep_pattern else {}),
                **({} if self.rerank is None else {"rerank": self.rerank.model_dump()}),
                "granularity": self.granularity,
                "recovery": {"method": self.method, **self.recovery.model_dump()},
                "calibration": calibration,
                "finetune": self.finetune.model_dump(),
                **({} if self.chain is None else {"chain": self.chain}),
                **self._finish_json(),
            }
        stored = {"checkpoint_dtype": self.checkpoint_dtype}
        own |= {"dtype": self.dtype, **({} if self.checkpoint_dtype == "source" else stored)}
        return {"name": self.name, **own, "seed": self.seed}

    def _finish_json(self) -> dict[str, Any]:
        if self.finish is None or self.finish_windows is None:
            return {}
        windows = self.finish_windows.model_dump()
        settings = {"method": self.finish_method, **self.finish.model_dump(), "windows": windows}
        return {"finish": settings}

    def _plain(self) -> dict[str, Any]:
        """Return the same methods with every setting at its default, and without their names."""
        if self.width is not None:
            plain = Recipe.of_width(self.name, "", type(self.width)())
        else:
            sections = (type(self.importance)(), "", type(self.recovery)())
            plain = Recipe(self.name, "", *sections)
            if self.finish is not None:
                finish, windows = type(self.finish)(), WindowsSpec()
                last: dict[str, Any] = {
                    "finish_method": "",
                    "finish": finish,
                    "finish_windows": windows,
                }
                plain = dataclasses.replace(plain, **last)
        found = plain.to_json()
        for section, key in METHODS.items():
            found.get(section, {}).pop(key, None)
        return found


def _deviations(settings: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """What in settings is not as in ``plain``, at any depth."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and isinstance(plain.get(key), Mapping):
            inner = _deviations(value, plain[key])
            if inner:
                found[key] = inner
        elif key not in plain or value != plain[key]:
            found[key] = value
    return found

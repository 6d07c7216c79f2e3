"""What a profile says of one rule, for rules that do the same under other names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fusegpt.devices import kind_and_count
from fusegpt.errors import ConfigError

__all__ = ["check_devices", "resources_like", "threads_like"]

DEVICE = re.compile(r"cpu|cuda(:\d+)?|(cpu|cuda)x\d{1,4}", re.ASCII)
SHARED = re.compile(r"fuse|finish|evaluate(_.+)?")
"""Rules whose work several processes can share."""


def check_devices(said: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a device that no rule can work on, before any job starts.

    Args:
        said: Rule to resources: ``workflow.resource_settings.overwrite_resources``. What is
            computed for each job, with brackets or blanks, is left to the job.

    Raises:
        ConfigError: A rule's device is neither cpu, cuda nor cuda:N, nor several of the first two
            (cudax2) where the rule can share its work and reserves as many GPUs.
    """
    for rule, given in said.items():
        if "device" not in given:
            continue
        device = given["device"]
        text = getattr(device, "raw", device)
        if isinstance(text, str) and not DEVICE.fullmatch(text) and not set(text) & set("( "):
            raise ConfigError(
                f"profile: device of rule {rule} must be cpu, cuda or cuda:N, got {text!r}"
            )
        if isinstance(text, str) and DEVICE.fullmatch(text):
            _check_count(rule, text, given["gpu"] if "gpu" in given else 1)


def _check_count(rule: str, device: str, reserved: Any) -> None:
    """Refuse several processes where a rule has work for one, or no GPU for each of them."""
    kind, count = kind_and_count(device)
    if count > 1 and not SHARED.fullmatch(rule):
        raise ConfigError(
            f"profile: device of rule {rule} must be one, as it works in one process, got"
            f" {device!r}; give {kind}"
        )
    number = str(getattr(reserved, "raw", reserved))
    if kind == "cuda" and count > 1 and number.isdecimal() and int(number) != count:
        raise ConfigError(
            f"profile: rule {rule} works on {count} GPUs (device {device}) and must reserve as"
            f" many, got {number}; set gpu={count}"
        )


def threads_like(said: Mapping[str, Any], rule: str, default: int) -> Any:
    """Return the threads that a profile gives to a rule.

    Args:
        said: Rule to threads: ``workflow.resource_settings.overwrite_threads``.
        rule: The older one. What the profile says of the new rule itself comes first.
        default: Where the profile says nothing.
    """
    return _value(said[rule]) if rule in said else default


def resources_like(
    said: Mapping[str, Mapping[str, Any]], rule: str, **default: int | str
) -> dict[str, Any]:
    """Return the resources that a profile gives to a rule.

    Args:
        said: Rule to resources: ``workflow.resource_settings.overwrite_resources``.
        rule: The older one. What the profile says of the new rule itself comes first.
        default: The rule's own, where the profile says nothing.
    """
    given = said[rule] if rule in said else {}
    return {**default, **{name: _value(given[name]) for name in given}}


def _value(said: Any) -> Any:
    """A plain value, or a function of the job; Snakemake wraps what a command line gives it."""
    if not hasattr(said, "is_evaluable"):
        return said
    return _later(said) if said.is_evaluable() else said.value


def _later(said: Any) -> Callable[..., Any]:
    def value(
        wildcards: Any,
        input: Any,
        attempt: int,
        rulename: str,
        threads: int | None = None,  # not known yet where it is asked for
        async_run: Any = None,
    ) -> Any:
        known = {"input": input, "attempt": attempt, "rulename": rulename, "threads": threads}
        return said.evaluate(wildcards, **known, async_run=async_run).value

    return value

"""What all records share: read is validate, and what is written has its keys as they came."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    PlainSerializer,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from fusegpt.artifacts import read_json, write_json
from fusegpt.config import explain
from fusegpt.errors import ArtifactError
from fusegpt.results.digests import read_whole, with_digest
from fusegpt.units import KINDS, Unit

__all__ = ["Record", "RecordT", "UnitField", "check", "read", "read_object", "write"]

RecordT = TypeVar("RecordT", bound="Record")


class Record(BaseModel):
    """A JSON object with checked fields; keys that it does not know are kept.

    ``to_json`` gives the keys in the order in which they were given, and no other: what was read
    is written as it was, and a field that nobody set does not appear.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    noun: ClassVar[str] = "a record"
    """What the file is called in messages."""

    _given: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="wrap")
    @classmethod
    def _remember(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        record = handler(data)
        if isinstance(data, Mapping):
            renamed = {
                alias: name
                for name, field in cls.model_fields.items()
                for alias in getattr(field.validation_alias, "choices", ())
            }
            record._given = tuple(renamed.get(key, key) for key in data)
        return record

    @model_serializer(mode="wrap")
    def _in_order(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        whole = handler(self)
        later = [name for name in self.model_fields_set if name not in self._given]
        return {name: whole[name] for name in (*self._given, *sorted(later))}

    def to_json(self) -> dict[str, Any]:
        """The record as plain values, ready to be written."""
        return self.model_dump()

    def plus(self: RecordT, **values: Any) -> RecordT:
        """Return the record with some values changed, or added at its end."""
        return type(self).model_validate({**self.to_json(), **values})


def read(path: str | Path, model: type[RecordT]) -> RecordT:
    """Read a record; every damage ends in one line.

    Args:
        path: The JSON file.
        model: What it must be.

    Raises:
        ArtifactError: The file is missing, no JSON, no object, lacks a key, a value is of the
            wrong type, or it is not what its digest says; the message names the file and the field.
    """
    return check(read_whole(path), model, path)


def check(value: Any, model: type[RecordT], where: str | Path) -> RecordT:
    """Validate a value as a record.

    Raises:
        ArtifactError: It is none; the message begins with ``where`` and names the field.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault, *others = explain(error, "", model).split("; ")
        more = f" (and {len(others)} more)" if others else ""
        raise ArtifactError(
            f"{where}: must be {model.noun}: {fault.removeprefix(': ')}{more};"
            " if it is damaged, delete it and run again"
        ) from None


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON object whose keys are its owner's, such as ``recipe.json``.

    Raises:
        ArtifactError: The file is missing, no JSON, or no object.
    """
    value = read_json(path, ours=True)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: must hold a JSON object, got {type(value).__name__}")
    return value


def write(path: str | Path, record: Record) -> None:
    """Write a record as JSON, atomically, with its digest."""
    write_json(path, with_digest(record.to_json()))


def _unit(value: Any) -> Unit:
    if isinstance(value, Unit):
        return value
    kind = value.get("granularity") if isinstance(value, Mapping) else None
    index = value.get("index") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS or kind == "mixed" or type(index) is not int:
        raise ValueError(f"must be a unit with granularity and index, got {value!r}"[:120])
    return Unit(kind, index)


UnitField = Annotated[Unit, BeforeValidator(_unit), PlainSerializer(Unit.to_json)]
"""A unit, written as ``{"granularity", "index"}``."""

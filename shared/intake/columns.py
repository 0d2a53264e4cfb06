"""Which columns of a table hold the texts, the ids and the metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.intake.records import Options, UnreadableInput

TEXT, ID = "text", "id"
# Of so many columns, and of so many characters of each, an error tells the names.
_NAMED, _CHARACTERS = 30, 60


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns that are all there, each once."""

    text: str
    id: str | None
    metadata: tuple[str, ...]


def choose(names: Sequence[str], options: Options) -> Columns:
    """The columns that the options name, or the usual ones. Raises UnreadableInput, telling the names that there are."""
    text = options.text_column or TEXT
    _require(text, names, "text_column")
    record_id = options.id_column or (ID if ID in names and text != ID else None)
    if record_id is not None:
        _require(record_id, names, "id_column")
    if options.metadata_columns is None:
        metadata = [name for name in dict.fromkeys(names) if name and name not in (text, record_id) and names.count(name) == 1]
    else:
        metadata = list(options.metadata_columns)
        for name in metadata:
            _require(name, names, "metadata_columns")
    return Columns(text, record_id, tuple(metadata))


def _require(name: str, names: Sequence[str], param: str) -> None:
    count = names.count(name)
    if count == 1:
        return
    there = ", ".join(repr(each[:_CHARACTERS]) for each in names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
    what = f"there is no column {name!r}" if not count else f"there are {count} columns {name!r}"
    raise UnreadableInput(f"{param}: {what}; the columns are {there}", code="unknown_column", param=param)

"""Tables (CSV) from outside: every row as wide as the header, or one line that names the row."""

import csv
import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mwjax.data.files import write_whole
from mwjax.data.text import LARGEST, read_text
from mwjax.errors import InputError
from mwjax.ranges import shown


class Row(NamedTuple):
    """line: of the file, counted from 1, on which the row begins."""

    line: int
    fields: list[str]


class Table(NamedTuple):
    """columns: as the header has them."""

    columns: list[str]
    rows: list[Row]

    def find(self, column: str) -> int | None:
        """The place of a column, whatever its case and the white space around it; None if there is none."""
        names = [name.strip().lower() for name in self.columns]
        return names.index(column) if column in names else None


def parse_table(text: str, named: str, *, most: int | None = None) -> Table:
    """A table from text. most: rows. Raises InputError naming the line for what is no table."""
    csv.field_size_limit(LARGEST)  # a caption may be long
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    line = 1
    try:
        for fields in reader:
            if fields:
                rows.append(Row(line, fields))
                width = len(rows[0].fields)
                if len(fields) != width:
                    why = f"{len(fields)} fields, the header has {width}; a field with a comma in it needs quotes"
                    raise InputError(f"{named} line {line} has {why}")
            if most is not None and len(rows) > most + 1:
                raise InputError(f"{named} has more than {most} rows")
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{named} line {line} is no row of a table ({error})") from None
    if not rows:
        raise InputError(f"{named} is empty; the first line of a table is its header")
    names = [name.strip().lower() for name in rows[0].fields]
    known = set()
    for name in names:
        if name in known:
            raise InputError(f"{named} has the column {shown(name)} twice")
        known |= {name} - {""}
    return Table(rows[0].fields, rows[1:])


def read_table(path: str | pathlib.Path) -> Table:
    """The table of a file: UTF-8, with or without a mark."""
    return parse_table(read_text(path), str(path))


def write_table(path: pathlib.Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table that appears whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_whole(path, text.getvalue())

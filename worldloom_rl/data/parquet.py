"""Columns of parquet files as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldloom_rl.extras import require

if TYPE_CHECKING:
    import pyarrow


_VALUES_A_BYTE = 64  # of a file, that a column may have: what differs by row takes more


def read_table(file: Path, columns: Sequence[str] | None) -> pyarrow.Table:
    """These columns of a file, or all. Raises ValueError naming the file if it is damaged or lacks one."""
    parquet = require("pyarrow.parquet", extra="lerobot", why="LeRobot datasets need pyarrow")
    arrow = require("pyarrow", extra="lerobot", why="LeRobot datasets need pyarrow")
    if not file.is_file():
        raise ValueError(f"{file} is no regular file; copy it again.")
    try:
        with parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            missing = [name for name in columns or () if name not in names]
            twice = [name for name in columns or () if names.count(name) > 1]
            if (values := _most_values(opened.metadata)) > _VALUES_A_BYTE * file.stat().st_size:
                raise ValueError(f"{file} would have {values:,} numbers in a column, more than its bytes tell apart.")
            if not missing and not twice:
                return opened.read(columns=None if columns is None else list(columns))
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as parquet, it may be cut off or of another kind: {error}") from error
    raise ValueError(f"{file} lacks the columns {missing}." if missing else f"{file} has the columns {twice} twice.")


def numbers_of(file: Path, table: pyarrow.Table, name: str, *, vector: bool) -> np.ndarray:
    """A column as [N, width] float32, or [N] of its own type if it is no vector.

    Raises ValueError, naming file and column, for what are not finite numbers, all rows of one width.
    """
    column = table[name].combine_chunks()
    while hasattr(column, "num_chunks"):  # of several chunks there is one, of none an empty one
        column = column.chunk(0)
    if not len(column):
        raise ValueError(f"{file} holds no rows: remove it, or copy it again.")
    if column.null_count:
        raise ValueError(f"{file}: {name!r} lacks {column.null_count} of its {len(column)} values.")
    if not vector:
        values: np.ndarray = column.to_numpy(zero_copy_only=False).reshape(len(column), -1)
        if values.dtype.kind not in "fiub" or values.shape[1] != 1:
            raise ValueError(f"{file}: {name!r} must be one number a row, got {column.type}.")
        return values[:, 0]
    flat = column.flatten() if hasattr(column, "flatten") and _is_list(column) else column
    width = len(flat) // len(column)
    values = flat.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "f" or width * len(column) != len(flat) or not _even(column, width):
        raise ValueError(f"{file}: {name!r} must be real numbers, as many in each row, got {column.type}.")
    values = values.astype(np.float32).reshape(len(column), width)
    wrong = np.argwhere(~np.isfinite(values).all(-1))
    if len(wrong):
        raise ValueError(f"{file}: row {int(wrong[0, 0])} of {name!r} is not finite.")
    return values


def _most_values(metadata: pyarrow.parquet.FileMetaData) -> int:
    """Numbers of the longest column."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = range(metadata.num_columns)
    return max((sum(group.column(column).num_values for group in groups) for column in columns), default=0)


def _is_list(column: pyarrow.Array) -> bool:
    return str(column.type).startswith(("list", "fixed_size_list", "large_list"))


def _even(column: pyarrow.Array, width: int) -> bool:
    if not _is_list(column) or str(column.type).startswith("fixed_size_list"):
        return True
    offsets = column.offsets.to_numpy()
    return bool((np.diff(offsets) == width).all())

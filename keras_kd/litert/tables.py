"""Which tables of a file an input's numbers look up rows of."""

from __future__ import annotations

from keras_kd.litert.model_file import ModelFile

# Operators behind which an id is still itself; SELECT and ADD come from negative ids, which count
# from the end.
_CARRY = frozenset(
    {
        "ADD", "CAST", "EXPAND_DIMS", "RESHAPE", "SELECT", "SELECT_V2", "SLICE", "SQUEEZE",
        "STRIDED_SLICE", "TRANSPOSE",
    }
)  # fmt: skip
_TABLE_AND_IDS = {"GATHER": (0, 1), "EMBEDDING_LOOKUP": (1, 0)}


def rows_of_tables(file: ModelFile, index: int) -> int | None:
    """Return the number of rows of the smallest table that an input looks up.

    Args:
        file: The file.
        index: The input's tensor in the file's first graph.

    Returns:
        The number, or `None` where the input looks up none.
    """
    carried = {index}
    rows = []
    for operator in file.operators():
        if operator.graph or not carried & set(operator.input_indices):
            continue
        if operator.name in _TABLE_AND_IDS:
            table, ids = (operator.input_indices[k] for k in _TABLE_AND_IDS[operator.name])
            if ids in carried:
                rows.append(file.tensor(0, table).shape[0])
        elif operator.name in _CARRY:
            carried.update(operator.output_indices)
    return min(rows, default=None)

"""Conditions on the rows of an index: ``year >= 2021 and "holiday" in path``.

A condition is read as Python's syntax, of which a few forms are allowed, and computed with Arrow. Nothing of it is ever
executed. Columns are ``path``, ``start``, ``end``, ``length`` (seconds), ``id``, ``split`` and those of the person's
table. Backticks hold a name that is not one word.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.config import choices
from components.errors import ReelTuneError

# Words of a condition for columns of the index.
NAMES = {"path": "uri", "id": "video_id", "start": "start_seconds", "end": "end_seconds"}
LENGTH = "length"
LONGEST = 10_000

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
FORMS = '== != < <= > >=, and or not, in [...], "text" in column, column.startswith("text"), column is None'
QUOTED = re.compile(r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|`(?P<name>[^`]+)`""")


def rows_where(condition: str, table: pa.Table) -> NDArray[np.bool_]:
    """The rows that a condition holds for.

    A row without a value in a column meets no comparison with it, nor the negation of one. ``column is None`` finds it.

    Args:
        condition: The condition.
        table: The rows of an index, N of them, with the columns of the person's table.

    Returns:
        ``bool[N]``.

    Raises:
        ReelTuneError: The condition is not of the allowed forms, names a column that does not exist, or compares a
            column with a value of another kind.
    """
    condition = condition.strip()
    if not condition:
        raise ReelTuneError("the condition is empty", where="where", expected='as in year >= 2021 or "beach" in path')
    if len(condition) > LONGEST:
        raise ReelTuneError("the condition is too long", where="where", found=len(condition), expected=LONGEST)
    names: dict[str, str] = {}

    def plain(match: re.Match[str]) -> str:
        if match["text"] is not None:
            return match["text"]
        word = f"quoted_name_{len(names)}"
        names[word] = match["name"]
        return word

    try:
        tree = ast.parse(QUOTED.sub(plain, condition), mode="eval").body
        held = _Condition(condition, table, names).truth(tree)
    except (SyntaxError, ValueError, OverflowError) as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ReelTuneError(f"not a condition ({text})", where="where", found=condition, expected=FORMS) from None
    except (RecursionError, MemoryError):
        raise ReelTuneError("the condition is nested too deeply", where="where", expected=FORMS) from None
    return np.asarray(pc.fill_null(held, False).to_numpy(zero_copy_only=False), dtype=bool)


class _Condition:
    """Computes a parsed condition on the columns of one table.

    Args:
        text: The condition, for messages.
        table: The rows.
        names: What words that replace quoted names are for.
    """

    def __init__(self, text: str, table: pa.Table, names: dict[str, str]) -> None:
        self.text = text
        self.table = table
        self.names = names

    def truth(self, node: ast.expr) -> pa.Array:
        """The truth of a condition in each row, null where it is not known: ``bool[N]``."""
        if isinstance(node, ast.BoolOp):
            join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            parts = [self.truth(value) for value in node.values]
            held = parts[0]
            for part in parts[1:]:
                held = join(held, part)
            return held
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return pc.invert(self.truth(node.operand))
        if isinstance(node, ast.Compare):
            return self._compared(node)
        if isinstance(node, ast.Call):
            return self._called(node)
        if isinstance(node, ast.Name) and pa.types.is_boolean((column := self._column(node)).type):
            return column
        self._refuse(node)

    def _compared(self, node: ast.Compare) -> pa.Array:
        """``a < b``, and ``a < b < c`` as the conjunction of both."""
        held, left = None, node.left
        for kind, right in zip(node.ops, node.comparators, strict=True):
            part = self._pair(left, kind, right, node)
            held, left = part if held is None else pc.and_kleene(held, part), right
        assert held is not None
        return held

    def _pair(self, left: ast.expr, kind: ast.cmpop, right: ast.expr, node: ast.expr) -> pa.Array:
        if isinstance(kind, ast.Is | ast.IsNot) and isinstance(left, ast.Name) and _is_none(right):
            empty = self._column(left).is_null()
            return empty if isinstance(kind, ast.Is) else pc.invert(empty)
        if isinstance(kind, ast.In | ast.NotIn):
            found = self._within(left, right, node)
            return found if isinstance(kind, ast.In) else pc.invert(found)
        compare = COMPARISONS.get(type(kind))
        if compare is None or not (isinstance(left, ast.Name) or isinstance(right, ast.Name)):
            self._refuse(node)
        if isinstance(left, ast.Name) and isinstance(right, ast.Name):
            one, other = self._column(left), self._column(right)
            if _kind(one.type) != _kind(other.type):
                self._differ(left, one, self._name(right), other.type)
            return compare(one, other)
        if isinstance(left, ast.Name):
            return compare(self._column(left), self._value(right, left))
        assert isinstance(right, ast.Name)
        return compare(self._value(left, right), self._column(right))

    def _within(self, left: ast.expr, right: ast.expr, node: ast.expr) -> pa.Array:
        """``column in [values]`` or ``"text" in column``."""
        if isinstance(left, ast.Name) and isinstance(right, ast.List | ast.Tuple | ast.Set):
            column = self._column(left)
            held = pa.chunked_array([pa.nulls(self.table.num_rows, pa.bool_())])
            for value in right.elts:
                held = pc.or_kleene(pc.fill_null(held, False), pc.equal(column, self._value(value, left)))
            return pc.if_else(column.is_valid(), pc.fill_null(held, False), None)
        if isinstance(right, ast.Name) and isinstance(left, ast.Constant):
            return pc.match_substring(self._texts(right, left), str(left.value))
        self._refuse(node)

    def _called(self, node: ast.Call) -> pa.Array:
        """``column.startswith("text")`` or ``column.endswith("text")``."""
        known = {"startswith": pc.starts_with, "endswith": pc.ends_with}
        place = node.func
        if (
            isinstance(place, ast.Attribute)
            and isinstance(place.value, ast.Name)
            and place.attr in known
            and len(node.args) == 1
            and not node.keywords
            and isinstance(node.args[0], ast.Constant)
        ):
            return known[place.attr](self._texts(place.value, node.args[0]), str(node.args[0].value))
        self._refuse(node)

    def _texts(self, name: ast.Name, value: ast.Constant) -> pa.Array:
        """A column that a text is looked for in."""
        column = self._column(name)
        if not isinstance(value.value, str) or _kind(column.type) != "text":
            self._differ(name, column, repr(value.value), "text")
        return column

    def _name(self, node: ast.Name) -> str:
        return self.names.get(node.id, node.id)

    def _column(self, node: ast.Name) -> pa.ChunkedArray:
        name, table = self._name(node), self.table
        if name == LENGTH and LENGTH not in table.column_names:
            return pc.subtract(table["end_seconds"], table["start_seconds"])
        # A column of the person's table goes before a word of this module.
        name = name if name in table.column_names else NAMES.get(name, name)
        if name not in table.column_names:
            known = [*NAMES, LENGTH, *(column for column in table.column_names if column not in NAMES.values())]
            raise ReelTuneError("no such column", where="where", found=self._name(node), expected=choices(name, known))
        column = table[name]
        return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column

    def _value(self, node: ast.expr, name: ast.Name) -> pa.Scalar:
        """A literal that a column is compared with, of the column's kind."""
        column = self._column(name)
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        if isinstance(node, ast.UnaryOp) and negative and _kind(column.type) == "number":
            node = node.operand
        if not isinstance(node, ast.Constant) or type(node.value) not in (str, int, float, bool):
            self._refuse(node)
        value = node.value
        kind = "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
        if kind != _kind(column.type):
            self._differ(name, column, ast.unparse(node), kind)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return pa.scalar(value)
        # Arrow's whole numbers end at 64 bits.
        number = float(value) if abs(value) >= 2**63 else value
        return pa.scalar(-number if negative else number)

    def _differ(self, name: ast.Name, column: pa.ChunkedArray, found: str, kind: object) -> NoReturn:
        held = _kind(column.type)
        raise ReelTuneError(
            f"the column {self._name(name)} holds {NOUNS[held]}, and is compared with {found}",
            where="where",
            found=self.text,
            cure=CURES[held],
        )

    def _refuse(self, node: ast.expr) -> NoReturn:
        raise ReelTuneError("not a condition", where="where", found=ast.unparse(node), expected=FORMS)


NOUNS = {"text": "text", "number": "numbers", "truth": "True or False"}
CURES = {"text": "put the text in quotes", "number": "give a number without quotes", "truth": "give True or False"}


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "text"


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None

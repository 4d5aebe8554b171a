"""Annotations as text to values. Whatever a file holds, a fault is one error with its place."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from components.errors import DataError
from components.video import is_unicode

# The only way for a surrogate into a text that was UTF-8. A pair of them is one character, which json joins.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, where: str) -> Any:
    """Parses JSON.

    Args:
        text: The content of the file, or of one line.
        where: The file, or the file and the line, for messages.

    Raises:
        DataError: The text is not JSON or nested too deeply. Or it has a number with thousands of digits, a lone
            surrogate, or a key that occurs twice in one object.
    """

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError("key occurs twice", where=where, found=twice, expected="one value for each key")
        return found

    try:
        content = json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} in line {error.lineno}", where=where) from None
    except RecursionError:
        raise DataError("JSON is nested too deeply", where=where, expected="a few levels") from None
    except ValueError as error:  # an integer that Python does not convert
        raise DataError("number with too many digits", where=where, cure=str(error).partition(";")[0]) from None
    if SURROGATE.search(text) and (broken := _not_unicode(content)) is not None:
        raise not_unicode(where, broken)
    return content


def not_unicode(where: str, text: str) -> DataError:
    """The error for a text with a lone surrogate."""
    return DataError(
        "text with half a character (a lone surrogate)",
        where=where,
        found=text,
        expected="text that can be written as UTF-8",
        cure="write the character again",
    )


def name_of(where: str, value: object) -> str:
    """An id in annotations: a text, or a whole number as some files write it.

    Raises:
        DataError: The value is something else.
    """
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise DataError("not an id", where=where, found=value, expected="a text")


def text_of(where: str, value: object) -> str:
    """A caption in annotations. Runs of blanks become one.

    Raises:
        DataError: The value is no text, or nothing of it can be seen.
    """
    if isinstance(value, str) and any(unicodedata.category(sign)[0] not in "CZ" for sign in value):
        return " ".join(value.split())
    raise DataError("empty caption", where=where, found=value, expected="a text", cure="write one or drop the entry")


def _not_unicode(content: Any) -> str | None:
    """The first text with a lone surrogate anywhere in ``content``."""
    waiting = [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str) and not is_unicode(node):
            return node
        if isinstance(node, dict):
            waiting += [*node.keys(), *node.values()]
        elif isinstance(node, list):
            waiting += node
    return None

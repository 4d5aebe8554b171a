"""Reads pickles of containers, texts and numbers, and nothing else.

A pickle is a program. Most of its commands make containers and texts, some call any function, and some take memory
before there is content for it. Only the first kind is known here, and names of classes and functions are refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from components import storage
from components.errors import DataError

# The commands that call something, or that make a buffer of a stated length before its content is read.
REFUSED = {
    name: ord(command.code)
    for command in pickletools.opcodes
    if (name := command.name)
    in {"PERSID", "BINPERSID", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "REDUCE", "BUILD"}
    | {"BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER"}
}


def _refuse(name: str) -> Callable[[Any], NoReturn]:
    def refuse(reader: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"the file has the command {name}")

    return refuse


# Where the keys of a mapping or the members of a set are on the stack when a command puts them in.
KEYS = {
    pickle.SETITEM[0]: slice(-2, -1),
    pickle.SETITEMS[0]: slice(None, None, 2),
    pickle.DICT[0]: slice(None, None, 2),
    pickle.ADDITEMS[0]: slice(None),
    pickle.FROZENSET[0]: slice(None),
}


def _with_plain_keys(code: int, where: slice) -> Callable[[Any], None]:
    """The command ``code``, if the keys are plain: hashing a deeply nested tuple would end the process."""
    load = pickle._Unpickler.dispatch[code]

    def checked(reader: Any) -> None:
        if deep := [type(key).__name__ for key in reader.stack[where] if isinstance(key, tuple | frozenset)]:
            raise pickle.UnpicklingError(f"a key is a {deep[0]}")
        load(reader)

    return checked


class _Plain(pickle._Unpickler):
    """The unpickler in Python: that in C makes room for as many objects as a file states, whatever its length."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        **{code: _refuse(name) for name, code in REFUSED.items()},
        **{code: _with_plain_keys(code, where) for code, where in KEYS.items()},
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"the file names {module}.{name}")


def read_plain_pickle(where: str, form: str, instead: str) -> object:
    """Reads a pickle of containers, texts and numbers.

    Args:
        where: The path or URI of the file.
        form: What the file should hold, for messages.
        instead: The name of a file that may be used in its place, for messages.

    Raises:
        DataError: The file does not exist, is not a pickle, or names a class or a function. The name is not imported.
    """
    content = storage.read_bytes(where)
    try:
        return _Plain(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            "not a plain pickle",
            where=where,
            found=f"{type(error).__name__}: {error}",
            expected=f"only containers and texts: {form}",
            cure=f"use {instead} instead",
        ) from None

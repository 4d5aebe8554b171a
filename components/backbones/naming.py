"""Where the settings of a backbone are, in the errors about them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from components.errors import BackboneError

# A key such as `backbone.model`, but not the end of a longer one.
_KEY = re.compile(r"(?<![\w./])backbone\.(?=[a-z])")


@contextmanager
def errors_under(key: str) -> Iterator[None]:
    """Names the keys of a backbone by the block that they are in.

    Args:
        key: The block that was loaded, such as ``tasks.mine.backbone``.

    Raises:
        BackboneError: The one that was raised inside, with ``<key>.model`` instead of ``backbone.model``.
    """
    try:
        yield
    except BackboneError as error:
        raise BackboneError(_KEY.sub(lambda _: f"{key}.", str(error))) from error

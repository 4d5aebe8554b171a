"""The registry of captioners, which are always plug-ins: this project holds no captioner.

A captioner is a class. It is made with the task's ``captions.options`` as keyword arguments, and called with frames
``uint8[N, H, W, 3]`` in RGB, of which it returns N texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from components.plugins import Registry

Captioner = Callable[[NDArray[np.uint8]], Sequence[str]]

CAPTIONERS: Registry[Callable[..., Captioner]] = Registry("captioner")

"""How much of a long text is read."""

from __future__ import annotations

import torch

from components.methods.base import Method

# A text whose first words fill the tokens in another way than the whole text does: the clean-up before the tokens looks
# at the whole. After so many beginnings the count is an estimate. Trying all of them would take quadratic time.
FULL_BEGINNINGS = 8


def kept_words(method: Method, text: str) -> tuple[int, int]:
    """How many words of the text fit into the method's tokens, and how many words it has. The rest is ignored.

    The time is linear in the length of the text.
    """

    def tokens(beginning: str) -> torch.Tensor:
        return method.backbone.tokenize([beginning], method.words)[0]

    words = text.split()
    whole = tokens(text)
    if not words or int(whole[-1]) == 0:  # padding: nothing was cut
        return len(words), len(words)
    full = 0
    for count in range(1, len(words)):
        found = tokens(" ".join(words[:count]))
        if torch.equal(found, whole):
            return count, len(words)
        full += int(found[-1]) != 0
        if full == FULL_BEGINNINGS:
            return max(1, count - full), len(words)
    return max(1, len(words) - 1 - full) if full else len(words), len(words)

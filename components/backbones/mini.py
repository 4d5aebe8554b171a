"""The embedded mini CLIP: its open_clip model config and its tokenizer.

It replaces a published CLIP where nothing may be downloaded. The tokenizer is open_clip's with a shorter list of
merges: only those of CLIP's BPE that the words of the embedded collections need. Any other word is spelled in letters
and shorter pieces.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer, default_bpe

NAME = "mini"
CONFIG_PATH = Path(__file__).with_name("mini.json")
BPE_PATH = Path(__file__).with_name("mini_bpe.txt.gz")


def mini_tokenizer(context_length: int) -> SimpleTokenizer:
    """open_clip's tokenizer with the shorter list of merges. Texts are padded with 0 to ``context_length``."""
    return SimpleTokenizer(bpe_path=str(BPE_PATH), context_length=context_length)


def reduced_merges(words: Iterable[str]) -> list[str]:
    """The lines of CLIP's merge list that spell ``words``, in the list's order.

    With only these, each word gets the same pieces as with the full list.
    """
    full = SimpleTokenizer()
    kept: set[tuple[str, str]] = set()
    for word in words:
        pieces = list("".join(full.byte_encoder[byte] for byte in word.encode()))
        pieces[-1] += "</w>"
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            best = min(pairs, key=lambda pair: full.bpe_ranks.get(pair, float("inf")))
            if best not in full.bpe_ranks:
                break
            kept.add(best)
            pieces = _merge(pieces, best)
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as stream:
        return [line for line in stream.read().split("\n")[1:] if tuple(line.split()) in kept]


def write_bpe(path: Path, words: Iterable[str]) -> None:
    """Writes the merges for ``words`` as open_clip's tokenizer reads them. The same words give the same bytes.

    The file of the package was written with ``components.embedded.captions.all_words()``.
    """
    text = "\n".join(["#version: 0.2", *reduced_merges(words)])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        # A merged piece is longer than pair[0], so it is not merged a second time.
        if merged and merged[-1] == pair[0] and piece == pair[1]:
            merged[-1] = pair[0] + pair[1]
        else:
            merged.append(piece)
    return merged

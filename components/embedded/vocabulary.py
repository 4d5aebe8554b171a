"""The vocabulary of the mini CLIP: CLIP's BPE, reduced to the merges that the captions of the shapes need."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer, default_bpe

from components import storage
from components.embedded.captions import NUMBERS, OPENERS, PLURALS, RESTS, VERBS
from components.embedded.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES


def all_words() -> list[str]:
    """Every word that a caption can contain, sorted, and a few more that queries may use."""
    phrases = [*COLOURS, *BACKGROUNDS, *SHAPES, *PLURALS.values(), *SIZES, *PLACES, *NUMBERS.values()]
    phrases += [form for forms in (*VERBS.values(), RESTS) for pair in forms for form in pair]
    phrases += [word for opener in OPENERS for word in opener]
    phrases += ["on a background with and at the in center an . ,"]
    phrases += ["moving still video shape shapes clip shown picture before after while one the object"]
    return sorted({word for phrase in phrases for word in phrase.split()})


def write_bpe(path: Path) -> None:
    """Writes the reduced merges in the form that open_clip's tokenizer reads. The bytes are always the same."""
    text = "\n".join(["#version: 0.2", *reduced_merges(all_words())])
    storage.write_bytes(path, gzip.compress(text.encode(), mtime=0))


def reduced_merges(words: Iterable[str]) -> list[str]:
    """The lines of CLIP's merge list that spell ``words``, in its order.

    With these lines only, each word is split into the same pieces as with the full list.
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


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        # A piece that was just merged is both of the pair in one, so it equals pair[0] only if it is not merged.
        if merged and merged[-1] == pair[0] and piece == pair[1]:
            merged[-1] = pair[0] + pair[1]
        else:
            merged.append(piece)
    return merged

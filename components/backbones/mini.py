"""The embedded mini CLIP: its open_clip model config and its tokenizer.

It replaces a published CLIP where nothing may be downloaded. The tokenizer is open_clip's with a shorter list of
merges: only those of CLIP's BPE that the words of the embedded collections need. Any other word is spelled in letters
and shorter pieces.
"""

from __future__ import annotations

from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer

NAME = "mini"
CONFIG_PATH = Path(__file__).with_name("mini.json")
BPE_PATH = Path(__file__).with_name("mini_bpe.txt.gz")


def mini_tokenizer(context_length: int) -> SimpleTokenizer:
    """open_clip's tokenizer with the shorter list of merges. Texts are padded with 0 to ``context_length``."""
    return SimpleTokenizer(bpe_path=str(BPE_PATH), context_length=context_length)

"""Small tokenizers of the forms that SigLIP, SigLIP 2 and MetaCLIP 2 have, written by hand.

All have the special tokens at the published ids. The pieces are few: SigLIP and MetaCLIP 2 cut texts by a unigram
model, SigLIP 2 (Gemma) by byte pairs with bytes for what is unknown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = ["a", "red", "blue", "circle", "square", "squares", "moves", "left", "right", "two", "and", "the", "end", "it"]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'&,.;!"
REPOSITORY = {"siglip": "timm/ViT-B-16-SigLIP", "siglip2": "timm/ViT-B-16-SigLIP2", "xlm": "facebook/xlm-v-base"}


def config(kind: str, **text: Any) -> dict[str, Any]:
    """The part of an open_clip config that chooses the tokenizer."""
    options = {} if kind == "xlm" else {"tokenizer_kwargs": {"clean": "canonicalize"}}
    return {"text_cfg": {"hf_tokenizer_name": REPOSITORY[kind], "context_length": 16, **options, **text}}


def write(folder: Path, kind: str) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, settings = {"siglip": _siglip, "siglip2": _gemma, "xlm": _xlm}[kind]()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _siglip() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = _unigram(["<pad>", "</s>", "<unk>"], unknown=2)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **special}


def _xlm() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = _unigram(["<s>", "<pad>", "</s>", "<unk>"], unknown=3)
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **special}


def _unigram(special: list[str], unknown: int) -> Tokenizer:
    pieces = [(name, 0.0) for name in special]
    pieces += [(f"▁{word}", -2.0 - place / 10) for place, word in enumerate(WORDS)]
    pieces += [("▁", -3.0), *((letter, -6.0) for letter in LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Replace(" ", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return tokenizer


def _gemma() -> tuple[Tokenizer, dict[str, Any]]:
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    vocabulary = {name: place for place, name in enumerate(letters)}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        whole = word[0]
        for letter in [*word[1:], None]:
            pair = ("▁", whole) if letter is None else (whole, letter)
            whole = "".join(pair)
            if pair not in merges:
                merges.append(pair)
                vocabulary.setdefault(whole, len(vocabulary))
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    special_tokens = {"eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", **special_tokens}

"""Tokenizers: CLIP's byte pairs from open_clip, and others from the file tokenizer.json.

A model whose config has ``hf_tokenizer_name`` (SigLIP, SigLIP 2, MetaCLIP 2) needs that file. It is read with the
``tokenizers`` library, which holds the whole of a tokenizer: normalisation, pieces and special tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import tokenizers
from open_clip.tokenizer import get_clean_fn

from components.errors import BackboneError

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
# The padding of published models, for a file without a tokenizer_config.json next to it. A later entry is more exact.
_PADDING = {"siglip": 1, "siglip2": 0, "xlm-v": 1}
_CLEANING = ("canonicalize", "lower", "whitespace")


class FileTokenizer:
    """A tokenizer from a tokenizer.json.

    It equals open_clip's ``HFTokenizer`` on the same files.

    Attributes:
        sot_token_id: The token before every text, None if there is none (SigLIP).
        eot_token_id: The token after every text.
        pad_token_id: The token that fills up the context.
        vocab_size: One more than the largest id.
        clean: What is done to a text before it is cut into pieces.
        sha256: Hash of the file, of the cleaning and of the special tokens.

    Args:
        path: The tokenizer.json.
        clean: open_clip's name of the cleaning.
        padding: The padding where no file next to ``path`` says it.

    Raises:
        BackboneError: The file is damaged, or its special tokens are of another form.
    """

    def __init__(self, path: Path, clean: str = "whitespace", padding: int | None = None) -> None:
        if clean not in _CLEANING:
            raise BackboneError("unknown cleaning of texts", where=path, found=clean, expected=", ".join(_CLEANING))
        try:
            content = path.read_bytes()
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises only this kind
            raise BackboneError(
                "tokenizer cannot be read",
                where=path,
                found=(str(error).splitlines() or [type(error).__name__])[0],
                expected="a tokenizer.json of the tokenizers library",
                cure="the file is damaged or its download was cut off: fetch it again",
            ) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.clean: Callable[[str], str] = get_clean_fn(clean)
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        self.sot_token_id, self.eot_token_id = self._ends(path)
        self.pad_token_id = self._padding(path, padding)
        digest = hashlib.sha256(content)
        digest.update(f"{clean} {self.sot_token_id} {self.eot_token_id} {self.pad_token_id}".encode())
        self.sha256 = digest.hexdigest()

    def encode(self, text: str) -> list[int]:
        """The pieces of a cleaned text, without the start and the end token."""
        return list(self._tokenizer.encode(self.clean(text), add_special_tokens=False).ids)

    def _ends(self, path: Path) -> tuple[int | None, int]:
        """The start and the end token, as the file adds them to a text."""
        word = "a"
        bare = self._tokenizer.encode(word, add_special_tokens=False).ids
        full = self._tokenizer.encode(word).ids
        fits = [cut for cut in (0, 1) if bare and full[cut : cut + len(bare)] == bare]
        if not fits or len(full) != fits[-1] + len(bare) + 1:
            raise BackboneError(
                "tokenizer of another form",
                where=path,
                found={"pieces of 'a'": bare, "with special tokens": full},
                expected="at most one token before a text and one after it",
                cure="take the tokenizer.json of the model's repository",
            )
        return (full[0] if fits[-1] else None), full[-1]

    def _padding(self, path: Path, padding: int | None) -> int:
        config = path.with_name(TOKENIZER_CONFIG)
        token: Any = None
        if config.is_file():
            try:
                token = json.loads(config.read_bytes()).get("pad_token")
            except (ValueError, AttributeError, RecursionError) as error:
                raise BackboneError(
                    "not a JSON object", where=config, found=str(error), cure="fetch it again"
                ) from None
            token = token.get("content") if isinstance(token, dict) else token
        found = padding if token is None else self._tokenizer.token_to_id(str(token))
        if found is None:
            raise BackboneError(
                "the tokenizer's padding is not known",
                where=path,
                found=None if token is None else {"pad_token": token},
                expected=f"a pad_token of its vocabulary in {TOKENIZER_CONFIG} next to it",
                cure=f"fetch {TOKENIZER_CONFIG} from the same repository",
            )
        return found


def load_tokenizer(raw: dict[str, Any], where_to_look: Path | None) -> Any:
    """The tokenizer of a model: open_clip's for CLIP, a :class:`FileTokenizer` where the config names another.

    Args:
        raw: The model's config.
        where_to_look: A tokenizer.json, or a folder that may hold it.

    Raises:
        BackboneError: The tokenizer's file is missing or damaged, or it is of a kind that is not supported.
    """
    text = raw.get("text_cfg", {})
    if options := odd_options(text):
        raise BackboneError(
            "unsupported tokenizer", where="text_cfg of backbone.model", found=options, expected="no option but `clean`"
        )
    clean = (text.get("tokenizer_kwargs") or {}).get("clean")
    repository = text.get("hf_tokenizer_name")
    if not repository:
        return open_clip.SimpleTokenizer(context_length=text.get("context_length", 77), clean=clean or "lower")
    path = tokenizer_file(where_to_look)
    if path is None:
        raise BackboneError(
            "the model's tokenizer is missing",
            where="backbone.tokenizer" if where_to_look is None else where_to_look,
            expected=f"{TOKENIZER} and {TOKENIZER_CONFIG} of the repository {repository}",
            cure="`python pipelines/weights.py MODEL TAG --to weights/` fetches them with the weights, or `python "
            f"pipelines/weights.py tokenizer {repository} --to weights/` alone, on a machine with a network",
        )
    known = [padding for name, padding in _PADDING.items() if name in repository.lower()]
    return FileTokenizer(path, clean or "whitespace", known[-1] if known else None)


def odd_options(text: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer's options in a model's ``text_cfg`` that change tokens in a way that is not known here."""
    found = {name: value for name, value in (text.get("tokenizer_kwargs") or {}).items() if name != "clean"}
    mode = text.get("tokenizer_mode")
    return {**found, "tokenizer_mode": mode} if mode else found


def tokenizer_file(place: Path | None) -> Path | None:
    """The tokenizer.json that ``place`` is or holds, None if there is none."""
    if place is not None and place.is_dir():
        place = place / TOKENIZER
    return place if place is not None and place.is_file() else None

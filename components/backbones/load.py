"""Loads the backbone of params.yaml: its model config, its weights and its tokenizer.

Files given by path are read without network access. open_clip downloads a pretrained tag into its cache.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip

from components.backbones import mini
from components.backbones.clip import Backbone, Tokenizer
from components.backbones.families import FAMILIES, TIMM_VISUAL, family_of
from components.backbones.scope import unsupported
from components.backbones.settings import BackboneSettings
from components.backbones.weights import load_weights
from components.errors import BackboneError

# A vision tower of one layer, which is replaced.
_PLACEHOLDER = {"image_size": 8, "patch_size": 8, "layers": 1, "width": 64}


def load_backbone(settings: BackboneSettings, root: Path) -> Backbone:
    """Loads the backbone of params.yaml.

    Args:
        settings: Which model and weights. A weights file is .safetensors, or .pt with a state dict or a TorchScript
            archive.
        root: The folder that relative paths start from.

    Raises:
        BackboneError: The model is unknown or unsupported, or its weights are missing or do not fit.
    """
    raw, make_tokenizer = model_config(settings.model, root)
    path = root / settings.pretrained
    tag = None
    if not path.is_file():
        tag = open_clip.get_pretrained_cfg(settings.model, settings.pretrained)
        if not tag:
            raise _no_weights(settings, path)
    clip = create(settings.model, raw, needs_quick_gelu(settings, raw, tag))
    if tag:
        path = Path(_download(settings, tag))
    load_weights(clip, path)
    tokenizer = make_tokenizer()
    if tokenizer.vocab_size > clip.vocab_size:
        raise BackboneError(
            "the tokenizer has more tokens than the text tower",
            where=settings.model,
            found=tokenizer.vocab_size,
            expected=f"at most {clip.vocab_size}",
        )
    return Backbone(clip, _short_name(settings.model), tokenizer, tag, family_of(raw) or "")


class _NoTokenizer:
    """In the place of a tokenizer whose file is not there."""

    eot_token_id = 0

    def __init__(self, model: str, text: Mapping[str, Any]) -> None:
        self.model, self.vocab_size = model, int(text["vocab_size"])
        # Of the models with a tokenizer of their own, those that read the last column have no start token.
        self.sot_token_id = None if text.get("pool_type") == "last" else 0

    def encode(self, text: str) -> list[int]:
        raise BackboneError("a backbone without weights has no tokenizer", where=self.model, found=text)


def untrained(model: str, root: Path, quick_gelu: bool = False) -> Backbone:
    """A backbone with random weights, for sizes and times.

    Args:
        model: As ``backbone.model``. A tokenizer's file need not be there.
        root: The folder that relative paths start from.
        quick_gelu: Whether to use QuickGELU even if the config does not ask for it.

    Raises:
        BackboneError: The model is unknown or unsupported.
    """
    raw, make_tokenizer = model_config(model, root)
    text = raw.get("text_cfg", {})
    tokenizer = _NoTokenizer(model, text) if "hf_tokenizer_name" in text else make_tokenizer()
    quick_gelu = quick_gelu or bool(raw.get("quick_gelu"))
    return Backbone(create(model, raw, quick_gelu), model, tokenizer, None, family_of(raw) or "")


def needs_quick_gelu(settings: BackboneSettings, raw: dict[str, Any], tag: dict[str, Any] | None) -> bool:
    """Whether params.yaml, the model's config or the pretrained tag asks for QuickGELU."""
    return bool(settings.quick_gelu or raw.get("quick_gelu") or (tag or {}).get("quick_gelu"))


def model_config(model: str, root: Path) -> tuple[dict[str, Any], Callable[[], Tokenizer]]:
    """The open_clip config of a model, and a function that makes its tokenizer.

    Raises:
        BackboneError: There is no such model. The message suggests the nearest spelling.
    """
    if model == mini.NAME:
        raw = _read_config(mini.CONFIG_PATH)
        return raw, lambda: mini.mini_tokenizer(raw["text_cfg"]["context_length"])
    if model.endswith(".json"):
        raw = _read_config(root / model)
    else:
        known = open_clip.get_model_config(model) if ":" not in model else None
        if known is None:
            near = difflib.get_close_matches(model, [mini.NAME, *open_clip.list_models()], n=3, cutoff=0.5)
            raise BackboneError(
                "no such backbone",
                where="backbone.model",
                found=model,
                expected="`mini`, a ViT name of open_clip or a model config file (.json)",
                cure=f"did you mean {' or '.join(near)}?" if near else None,
            )
        raw = known
    context = raw.get("text_cfg", {}).get("context_length", 77)
    return raw, lambda: open_clip.SimpleTokenizer(context_length=context)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return dict(raw.get("model_cfg", raw))
    except (OSError, ValueError, AttributeError) as error:
        raise BackboneError("model config cannot be read", where=path, found=str(error)) from None


def create(model: str, raw: dict[str, Any], quick_gelu: bool = False) -> open_clip.CLIP:
    """Makes an open_clip ``CLIP`` from a config, with random weights.

    Args:
        model: The name for messages.
        raw: The config (:func:`model_config`).
        quick_gelu: Whether the MLPs use QuickGELU.

    Raises:
        BackboneError: A tower is not a plain transformer.
    """
    vision, text = raw.get("vision_cfg", {}), raw.get("text_cfg", {})
    reasons = {
        f"its vision tower is timm's {vision.get('timm_model_name')}": family_of(raw) is None
        and vision.get("timm_model_name"),
        "its vision tower is a ResNet": family_of(raw) is None,
        f"its text tower is Hugging Face's {text.get('hf_model_name')}": text.get("hf_model_name"),
        "it is a captioning model (CoCa)": "multimodal_cfg" in raw,
    }
    for reason, holds in reasons.items():
        if holds:
            raise unsupported(model, reason)
    kept = {key: value for key, value in raw.items() if key in ("embed_dim", "init_logit_scale", "init_logit_bias")}
    if "timm_kwargs" not in vision:
        return open_clip.CLIP(vision_cfg=dict(vision), text_cfg=dict(text), quick_gelu=quick_gelu, **kept)
    # open_clip takes timm's models in their published sizes only.
    clip = open_clip.CLIP(vision_cfg=_PLACEHOLDER, text_cfg=dict(text), quick_gelu=quick_gelu, **kept)
    clip.visual = FAMILIES.get(TIMM_VISUAL)(vision, raw["embed_dim"])
    return clip


def _download(settings: BackboneSettings, tag: dict[str, Any]) -> str:
    try:
        return open_clip.download_pretrained(tag)
    except Exception as error:  # open_clip and its hub clients raise many kinds, which mean the same to the user
        raise BackboneError(
            "pretrained weights cannot be downloaded",
            where=f"backbone.pretrained for {settings.model}",
            found=settings.pretrained,
            cure=f"give a local file ({type(error).__name__}: {error})",
        ) from error


def _no_weights(settings: BackboneSettings, path: Path) -> BackboneError:
    tags = open_clip.list_pretrained_tags_by_model(settings.model)
    return BackboneError(
        "no such weights",
        where="backbone.pretrained",
        found=settings.pretrained,
        expected=f"a file ({path} does not exist)"
        + (f" or a tag of {settings.model}: {', '.join(tags)}" if tags else ""),
        cure="`python pipelines/pretrain.py` makes the mini backbone's weights"
        if settings.model == mini.NAME
        else None,
    )


def _short_name(model: str) -> str:
    return Path(model).name if model.endswith(".json") else model

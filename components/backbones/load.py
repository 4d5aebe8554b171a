"""Loads the backbone of params.yaml: its model config, its weights and its tokenizer.

What is given by path is read without network access. Tags of open_clip and repositories are fetched once
(:mod:`components.backbones.sources`).
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from components.backbones import mini
from components.backbones.clip import Backbone, Tokenizer
from components.backbones.families import FAMILIES, TIMM_VISUAL, family_of
from components.backbones.hub import PREFIX, Repository
from components.backbones.scope import unsupported
from components.backbones.settings import BackboneSettings
from components.backbones.sources import OPEN_CLIP_CONFIG, PIXELS, Source, find_source, find_tokenizer
from components.backbones.texts import text_tower
from components.backbones.tokenizers import load_tokenizer, odd_options
from components.backbones.transformers_layout import check_towers
from components.backbones.weights import load_weights
from components.errors import BackboneError

# A vision tower of one layer, which is replaced.
_PLACEHOLDER = {"image_size": 8, "patch_size": 8, "layers": 1, "width": 64}
# What two models of equal shapes may still differ in. The weights' config has the last word.
_UNSEEN = {
    "vision_cfg": ("timm_model_name", "timm_pool", "timm_proj", "head_width", "pool_type", "act_kwargs", "norm_kwargs"),
    "text_cfg": ("heads", "no_causal_mask", "pool_type", "act_kwargs", "norm_kwargs"),
}


def load_backbone(settings: BackboneSettings, root: Path) -> Backbone:
    """Loads the backbone of params.yaml.

    Args:
        settings: Which model and weights.
        root: The folder that relative paths start from.

    Raises:
        BackboneError: The model is unknown or unsupported, its weights or its tokenizer are missing, cannot be fetched
            or do not fit, or a setting contradicts the weights.
    """
    raw, make_tokenizer = model_config(settings.model, root)
    _check_size(settings.model, check_scope(settings.model, raw))
    source = find_source(settings, raw, root)
    if source.model is not None:
        _check_same_model(settings, raw, source)
    tokenizer = _tokenizer(settings, raw, source, make_tokenizer, root)
    state, source = source.state()
    clip = create(settings.model, raw, activation(settings, raw, source))
    if source.transformers is not None:
        check_towers(clip, source.transformers, source.config or source.weights)
    load_weights(clip, state, source.weights)
    preprocess = source.preprocess or usual_preprocess(settings.model)
    return Backbone(clip, _short_name(settings.model), tokenizer, preprocess, vision_family(settings.model, raw))


def usual_preprocess(model: str) -> dict[str, Any]:
    """What all of open_clip's pretrained tags of a model say about pixels, which a file of weights does not say."""
    tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
    return {key: tags[0][key] for key in PIXELS if tags and all(tag[key] == tags[0][key] for tag in tags)}


def activation(settings: BackboneSettings, raw: dict[str, Any], source: Source) -> bool:
    """Whether the MLPs use QuickGELU: as the weights say, or where they say nothing, as the setting or the model says.

    Args:
        settings: The block of params.yaml.
        raw: The model's config.
        source: The weights, after they were read.

    Raises:
        BackboneError: The setting or the model contradicts the weights.
    """
    says, model, wish = source.quick_gelu, bool(raw.get("quick_gelu")), settings.quick_gelu
    if says is None:
        if model and wish is False:
            raise BackboneError(
                "contradicts the model, which has QuickGELU",
                where="backbone.quick_gelu",
                found=wish,
                expected=f"null, since backbone.model is {settings.model}",
                cure="remove the setting, or name the model without QuickGELU",
            )
        return bool(wish or model)
    if wish is not None and wish != says:
        raise BackboneError(
            f"contradicts the weights, which {'want' if says else 'do not want'} QuickGELU",
            where="backbone.quick_gelu",
            found=wish,
            expected=f"null or {str(says).lower()} for {source.config or settings.pretrained}",
            cure="remove the setting",
        )
    if model and not says:
        raise BackboneError(
            "the model has QuickGELU, but the weights do not want it",
            where="backbone.model",
            found=settings.model,
            expected=f"the model of {source.config or settings.pretrained}",
            cure=f"name {settings.model.removesuffix('-quickgelu')}",
        )
    return says


def _check_same_model(settings: BackboneSettings, raw: dict[str, Any], source: Source) -> None:
    """Compares the model's config with that next to the weights, where shapes would not show a difference."""
    for part, cls in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        ours, theirs = (_filled(cls, config.get(part) or {}) for config in (raw, source.model or {}))
        wrong = {name: theirs[name] for name in _UNSEEN[part] if (ours.get(name) or None) != (theirs.get(name) or None)}
        if wrong:
            repository = isinstance(source.files, Repository)
            raise BackboneError(
                f"the weights are of another architecture: {part} differs from backbone.model",
                where=source.config,
                found=wrong,
                expected=f"{ {name: ours[name] for name in wrong} } as {settings.model} has",
                cure=f"set backbone.model to {PREFIX}{source.files}"
                if repository
                else f"set backbone.model to {source.config}",
            )


def _filled(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """A tower's config with open_clip's defaults."""
    known = {field.name for field in fields(cls)}
    return {**asdict(cls()), **{name: value for name, value in given.items() if name in known}}


def check_scope(model: str, raw: dict[str, Any]) -> open_clip.CLIP:
    """Refuses a model that cannot be used, before anything is fetched or made. Returns it on the meta device.

    Raises:
        BackboneError: One of its towers is of no family.
    """
    with torch.device("meta"):
        clip = create(model, raw)
        FAMILIES.get(vision_family(model, raw))(clip.visual, model)
        text_tower(clip, model, starts=True)
    return clip


def _check_size(model: str, clip: open_clip.CLIP) -> None:
    """Refuses a model that is larger than the machine's memory."""
    needed = 4 * sum(value.numel() for value in clip.parameters())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise BackboneError(
            "the model does not fit into this machine's memory",
            where="backbone.model",
            found=f"{model} with {needed / 2**30:,.0f} GiB",
            expected=f"at most {memory / 2**30:,.0f} GiB",
            cure="take a smaller model",
        )


def _tokenizer(
    settings: BackboneSettings, raw: dict[str, Any], source: Source, make_tokenizer: Callable[[], Tokenizer], root: Path
) -> Tokenizer:
    text = raw.get("text_cfg", {})
    if not text.get("hf_tokenizer_name"):
        if settings.tokenizer is not None:
            raise BackboneError(
                "the model has CLIP's tokenizer and takes no other",
                where="backbone.tokenizer",
                found=settings.tokenizer,
                cure="remove the setting",
            )
        tokenizer = make_tokenizer()
    else:
        place = find_tokenizer(source, raw) if settings.tokenizer is None else root / settings.tokenizer
        tokenizer = load_tokenizer(raw, place)
    rows = text.get("vocab_size", 49408)
    if tokenizer.vocab_size > rows:
        raise BackboneError(
            "the tokenizer has more tokens than the text tower",
            where=settings.model,
            found=tokenizer.vocab_size,
            expected=f"at most {rows}",
            cure="take the tokenizer of these weights",
        )
    return tokenizer


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
    return Backbone(create(model, raw, quick_gelu), model, tokenizer, None, vision_family(model, raw))


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
    elif model.startswith(PREFIX) and (repository := Repository.parse(model)):
        raw = _read_config(repository.need(OPEN_CLIP_CONFIG))
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
    return raw, lambda: load_tokenizer(raw, None)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        config = dict(raw.get("model_cfg", raw))
        return {**config, "vision_cfg": dict(config["vision_cfg"]), "text_cfg": dict(config["text_cfg"])}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise BackboneError("model config cannot be read", where=path, found=str(error)) from None
    except KeyError as error:
        raise BackboneError(
            "not a model config of open_clip", where=path, found=f"no {error}", expected="vision_cfg and text_cfg"
        ) from None


def vision_family(model: str, raw: Mapping[str, Any]) -> str:
    """The family of a config's vision tower.

    Raises:
        BackboneError: It is of no family.
    """
    family = family_of(raw)
    if family is None:
        name = raw.get("vision_cfg", {}).get("timm_model_name")
        raise unsupported(model, f"its vision tower is timm's {name}" if name else "its vision tower is a ResNet")
    return family


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
    vision_family(model, raw)  # refuses other towers
    reasons = {
        f"its text tower is Hugging Face's {text.get('hf_model_name')}": text.get("hf_model_name"),
        f"its tokenizer has the options {odd_options(text)}": odd_options(text),
        "it is a captioning model (CoCa)": "multimodal_cfg" in raw,
    }
    for reason, holds in reasons.items():
        if holds:
            raise unsupported(model, reason)
    kept = {key: value for key, value in raw.items() if key in ("embed_dim", "init_logit_scale", "init_logit_bias")}
    resized = "timm_kwargs" in vision
    try:
        # open_clip takes timm's models in their published sizes only.
        tower = _PLACEHOLDER if resized else dict(vision)
        clip = open_clip.CLIP(vision_cfg=tower, text_cfg=dict(text), quick_gelu=quick_gelu, **kept)
        if resized:
            clip.visual = FAMILIES.get(TIMM_VISUAL)(vision, raw["embed_dim"])
        return clip
    except (TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise BackboneError(
            "open_clip cannot make this model",
            where=model,
            found=f"{type(error).__name__}: {error}",
            cure="correct the model config",
        ) from None


def _short_name(model: str) -> str:
    return Path(model).name if model.endswith(".json") else model.removeprefix(PREFIX)

"""Where weights come from, and what is known about them before they are read.

``backbone.pretrained`` names a file, a folder, a pretrained tag of open_clip or a Hugging Face repository. Folders and
repositories have one of two layouts: open_clip's (open_clip_config.json) or that of transformers (config.json).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import open_clip
from torch import Tensor

from components.backbones import mini
from components.backbones.hub import PREFIX, Repository, fetch_url
from components.backbones.settings import BackboneSettings
from components.backbones.tokenizers import TOKENIZER, TOKENIZER_CONFIG, tokenizer_file
from components.backbones.transformers_layout import TransformersConfig, parse_config, preprocessing, to_open_clip
from components.backbones.weights import INDEX_SUFFIX, OPENAI_ENTRIES, read_state, weight_map
from components.errors import BackboneError

OPEN_CLIP_CONFIG, CONFIG, PREPROCESSOR = "open_clip_config.json", "config.json", "preprocessor_config.json"
# The best one first.
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pt")
TRANSFORMERS_WEIGHTS = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)
# What a tag or a config says about pixels.
PIXELS = ("mean", "std", "interpolation", "resize_mode")
_FILE = re.compile(r".*\.(safetensors|bin|pt|pth|json)")


class Files(Protocol):
    """A local folder or a repository."""

    def get(self, name: str) -> Path | None:
        """The local path of a file, or None if there is no such file."""


@dataclass(frozen=True)
class Folder:
    """A local folder with the files of a model."""

    path: Path

    def get(self, name: str) -> Path | None:
        """The path of a file, or None if there is no such file."""
        path = self.path / name
        return path if path.is_file() else None

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Source:
    """A checkpoint, and what its surroundings say about it.

    Attributes:
        weights: The file, or the index of several.
        config: The file that the facts below are from, None for a bare file of weights.
        model: open_clip's config of the model, if it is known.
        transformers: What the config of transformers says, None in open_clip's layout.
        quick_gelu: Whether the weights want QuickGELU. None if nothing says it.
        preprocess: mean, std, interpolation and resize mode, as far as they are known.
        tokenizer: The folder to look for a tokenizer in, and None for a tag, whose tokenizer has a repository.
        files: The files of the repository or folder, for what else is needed from there.
    """

    weights: Path
    config: Path | None = None
    model: dict[str, Any] | None = None
    transformers: TransformersConfig | None = None
    quick_gelu: bool | None = None
    preprocess: dict[str, Any] | None = None
    tokenizer: Path | None = None
    files: Files | None = field(default=None, compare=False)

    def state(self) -> tuple[dict[str, Tensor], Source]:
        """The tensors by open_clip's names, and this source with what the weights themselves say.

        Raises:
            BackboneError: The file is damaged or holds something else.
        """
        state, source = read_state(self.weights), self
        if all(name in state for name in OPENAI_ENTRIES):
            # Only OpenAI's files have these entries, and all of them want QuickGELU.
            source = replace(self, quick_gelu=True)
        state = {name: value for name, value in state.items() if name not in OPENAI_ENTRIES}
        if self.transformers is not None:
            state = to_open_clip(state, self.weights)
        return state, source


def find_source(settings: BackboneSettings, raw: dict[str, Any], root: Path) -> Source:
    """Finds the weights that ``settings`` names, and fetches them if they are elsewhere.

    Args:
        settings: The block of params.yaml.
        raw: The config of ``settings.model``.
        root: The folder that relative paths start from.

    Raises:
        BackboneError: There are no such weights, their folder has no config, or they cannot be fetched.
    """
    path = root / settings.pretrained
    if path.is_dir():
        return in_files(Folder(path), str(path))
    if path.is_file():
        configs = {**dict.fromkeys(OPEN_CLIP_WEIGHTS, OPEN_CLIP_CONFIG), **dict.fromkeys(TRANSFORMERS_WEIGHTS, CONFIG)}
        config = configs.get(path.name)
        if config is not None and (path.parent / config).is_file():
            return in_files(Folder(path.parent), str(path.parent), weights=path)
        return Source(path, tokenizer=path.parent)
    if (tagged := of_tag(settings.model, settings.pretrained, raw)) is not None:
        return tagged
    repository = repository_of(settings.pretrained, root)
    if repository is None:
        raise _no_weights(settings, path)
    return in_files(repository, f"{PREFIX}{repository}")


def of_tag(model: str, name: str, raw: dict[str, Any]) -> Source | None:
    """The weights of a pretrained tag of open_clip, which are fetched. None if the model has no such tag.

    Args:
        model: The model's name.
        name: The tag.
        raw: The model's config.

    Raises:
        BackboneError: They cannot be fetched.
    """
    tag = open_clip.get_pretrained_cfg(model, name)
    if not tag:
        return None
    says = bool(tag.get("quick_gelu") or raw.get("quick_gelu"))
    return Source(_fetch_tag(tag), quick_gelu=says, preprocess=tag)


def repository_of(text: str, root: Path) -> Repository | None:
    """The repository that ``text`` names. None for a path: one that ends like a file, or starts in a local folder."""
    if not text.startswith(PREFIX) and (_FILE.fullmatch(text) or (root / text.split("/")[0]).is_dir()):
        return None
    return Repository.parse(text)


def in_files(files: Files, where: str, weights: Path | None = None) -> Source:
    """The checkpoint in a folder or repository.

    Args:
        files: The folder or repository.
        where: Its name for messages.
        weights: The file of weights, None to look for it.

    Raises:
        BackboneError: There is no config, no file of weights, or a file of a checkpoint in several is missing.
    """
    config = files.get(OPEN_CLIP_CONFIG)
    ours = config is not None
    config = config or files.get(CONFIG)
    if config is None:
        raise BackboneError(
            "no config next to the weights",
            where=where,
            expected=f"{OPEN_CLIP_CONFIG} (open_clip) or {CONFIG} (transformers)",
            cure="name a file of weights instead if you know its model, or take another repository",
        )
    if isinstance(files, Repository):
        files = files.at(config)
    tree = _read_object(config)
    if ours and not isinstance(tree.get("model_cfg"), dict):
        raise BackboneError("not a config of open_clip", where=config, expected="an object with model_cfg")
    names = OPEN_CLIP_WEIGHTS if ours else TRANSFORMERS_WEIGHTS
    weights = weights or next((path for name in names if (path := files.get(name))), None)
    if weights is None:
        raise BackboneError("no weights next to the config", where=where, expected=" or ".join(names))
    if weights.name.endswith(INDEX_SUFFIX):
        _gather(files, weights)
    known: dict[str, Any] = {"weights": weights, "config": config, "files": files, "tokenizer": config.parent}
    if ours:
        model = tree["model_cfg"]
        says = bool(model.get("quick_gelu", False))
        return Source(**known, model=model, quick_gelu=says, preprocess=tree.get("preprocess_cfg") or {})
    parsed = parse_config(tree, config)
    images = files.get(PREPROCESSOR)
    preprocess = preprocessing(parsed.kind, _read_object(images) if images else {})
    return Source(**known, transformers=parsed, quick_gelu=parsed.quick_gelu, preprocess=preprocess)


def _fetch_tag(tag: dict[str, Any]) -> Path:
    """The local copy of the weights of an open_clip tag: from its repository, or else from its address.

    Args:
        tag: open_clip's entry of the tag.

    Raises:
        BackboneError: They cannot be fetched.
    """
    if not tag.get("hf_hub"):
        return fetch_url(tag["url"])
    owner, name, file = tag["hf_hub"].split("/", 2)
    repository = Repository(f"{owner}/{name}")
    names: Sequence[str] = (Path(file).with_suffix(".safetensors").name, file) if file else OPEN_CLIP_WEIGHTS[:2]
    for candidate in names:
        path = repository.get(candidate)
        if path is not None:
            return path
    raise BackboneError("no weights in the repository", where=f"{PREFIX}{repository}", expected=" or ".join(names))


def find_tokenizer(source: Source, raw: dict[str, Any]) -> Path | None:
    """Where the model's tokenizer is: next to the weights, or for a tag or repository where its config says.

    Args:
        source: The weights.
        raw: The model's config.

    Raises:
        BackboneError: It cannot be fetched.
    """
    name = raw.get("text_cfg", {}).get("hf_tokenizer_name")
    if not name or tokenizer_file(source.tokenizer) or isinstance(source.files, Folder):
        return source.tokenizer
    if source.config is None and source.tokenizer is not None:
        return source.tokenizer  # a bare file: nothing is fetched for it
    for files in (source.files, Repository(name)):
        if files is not None and (path := files.get(TOKENIZER)) is not None:
            files = files.at(path) if isinstance(files, Repository) else files
            files.get(TOKENIZER_CONFIG)
            return path
    return None


def _gather(files: Files, index: Path) -> None:
    """Fetches the files that an index names, so that they are next to it."""
    for name in sorted(set(weight_map(index).values())):
        if Path(name).name != name or files.get(name) is None:
            raise BackboneError(
                "a file of the weights is missing", where=index, found=name, cure="fetch the whole folder again"
            )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError("not JSON", where=path, found=str(error), cure="fetch it again") from None
    if not isinstance(tree, dict):
        raise BackboneError("not a JSON object", where=path, found=type(tree).__name__, cure="fetch it again")
    return tree


def _no_weights(settings: BackboneSettings, path: Path) -> BackboneError:
    tags = open_clip.list_pretrained_tags_by_model(settings.model)
    return BackboneError(
        "no such weights",
        where="backbone.pretrained",
        found=settings.pretrained,
        expected=f"a file or folder ({path} does not exist)"
        + (f" or a tag of {settings.model}: {', '.join(tags)}" if tags else "")
        + ", or a repository (owner/name)",
        cure="`python pipelines/pretrain.py` makes the mini backbone's weights"
        if settings.model == mini.NAME
        else None,
    )

"""Random weights and random batches at real sizes, and the limit that a training step is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones import mini
from components.backbones.load import create, model_config, untrained
from components.methods.base import Method
from components.methods.build import build
from components.params import load_params
from components.training.batch import Batch

ROOT = Path(__file__).resolve().parents[1]
FRAMES, WORDS = 12, 32
B32, B16 = "ViT-B-32-quickgelu", "ViT-B-16-quickgelu"


def clip(model: str) -> Any:
    """open_clip's model with random weights."""
    torch.manual_seed(0)
    return create(model, model_config(model, ROOT)[0])


def side_of(model: str) -> int:
    """Input size of a backbone in pixels."""
    return int(model_config(model, ROOT)[0]["vision_cfg"]["image_size"])


def vocabulary_of(model: str) -> int:
    """Number of a backbone's text tokens."""
    return int(model_config(model, ROOT)[0]["text_cfg"]["vocab_size"])


def words_of(model: str) -> int:
    """Columns of a backbone's texts: the whole context where the text tower attends to padding."""
    text = model_config(model, ROOT)[0]["text_cfg"]
    return int(text["context_length"]) if text.get("no_causal_mask") else WORDS


def tokens(vocabulary: int, count: int, words: int = WORDS) -> Tensor:
    """Texts of the full length, int64[count, words], with the largest id at the end."""
    texts = torch.randint(1, vocabulary - 2, (count, words), generator=torch.Generator().manual_seed(0))
    texts[:, -1] = vocabulary - 1
    return texts


def pictures(side: int, videos: int, frames: int = FRAMES) -> Tensor:
    """Random frames, uint8[videos, frames, 3, side, side]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (videos, frames, 3, side, side), dtype=torch.uint8, generator=generator)


def batch_of(frames: Tensor, texts: Tensor, micro_batches: int = 1) -> Batch:
    """A training batch of one process.

    Args:
        frames: uint8[B, T, 3, S, S].
        texts: int64[B * c, L], c captions of each video.
        micro_batches: The number of passes.
    """
    videos, captions = len(frames), len(texts) // len(frames)
    sizes = tuple(len(range(part, videos, micro_batches)) for part in range(micro_batches))
    return Batch(
        ids=tuple(map(str, range(videos))),
        owner=torch.arange(videos).repeat_interleave(captions),
        videos=sizes,
        captions=tuple(size * captions for size in sizes),
        local=range(micro_batches),
        frames=frames,
        mask=torch.ones(frames.shape[:2], dtype=torch.bool),
        tokens=texts,
    )


def random_batch(model: str, videos: int, captions: int = 1) -> Batch:
    """A batch of random frames and full texts in one micro-batch."""
    return batch_of(pictures(side_of(model), videos), tokens(vocabulary_of(model), videos * captions, words_of(model)))


def method_on(model: str, name: str, **settings: Any) -> Method:
    """A method on random weights, with the papers' sizes, or those of params.yaml on the mini backbone.

    Args:
        model: The backbone.
        name: The method.
        settings: Further settings at CLIP's size.
    """
    raw: dict[str, Any] = {"lr": 1e-4, **settings}
    if model == mini.NAME:
        raw = load_params(ROOT / "params.yaml").method(name)
    torch.manual_seed(0)
    backbone = untrained(model, ROOT)
    return build(name, {} if name == "zero_shot" else raw, backbone, frames=FRAMES, words=WORDS)


class Limit(nn.Module):
    """open_clip itself, from frames and texts to embeddings, with a trainable vector after the first blocks.

    Everything else is frozen. No method that acts in every layer can do less.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self.clip = clip(model).requires_grad_(False).eval()
        # Texts as long as for the methods. open_clip itself only takes full contexts.
        words = words_of(model)
        self.clip.positional_embedding = nn.Parameter(self.clip.positional_embedding[:words].detach(), False)
        if self.clip.attn_mask is not None:
            self.clip.attn_mask = self.clip.attn_mask[:words, :words]
        visual = self.clip.visual
        blocks = visual.trunk.blocks if hasattr(visual, "trunk") else visual.transformer.resblocks
        width = visual.trunk.embed_dim if hasattr(visual, "trunk") else visual.transformer.width
        widths = width, self.clip.token_embedding.embedding_dim
        self.vectors = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in widths)
        for block, vector in zip((blocks[0], self.clip.transformer.resblocks[0]), self.vectors, strict=True):
            block.register_forward_hook(lambda module, inputs, out, vector=vector: out + vector)

    def forward(self, frames: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes both sides.

        Args:
            frames: float[B, T, 3, S, S].
            texts: int64[B, L].

        Returns:
            Two embeddings float[B, E], L2-normalised.
        """
        features = F.normalize(self.clip.encode_image(frames.flatten(0, 1)), dim=-1)
        video = features.view(len(frames), FRAMES, -1).mean(dim=1)
        return F.normalize(video, dim=-1), F.normalize(self.clip.encode_text(texts), dim=-1)

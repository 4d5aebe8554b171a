"""Trains the mini CLIP on still pictures. One seed fixes everything, and an interrupted run resumes."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from components.backbones import mini
from components.embedded import stills
from components.embedded.settings import PretrainSettings

log = logging.getLogger(__name__)

GROUP = 16  # pictures per theme in a batch
MAX_LOGIT_SCALE = math.log(100.0)
LOGIT_SCALE_LR = 3.0  # factor on the learning rate (with 10 the training collapsed)
SAVE_EVERY = 250


def new_model(seed: int) -> open_clip.CLIP:
    """A mini CLIP with random weights."""
    config = json.loads(mini.CONFIG_PATH.read_text(encoding="utf-8"))
    torch.manual_seed(seed)
    return open_clip.CLIP(**config)


def pretrain(settings: PretrainSettings, state_path: Path, out_path: Path, threads: int) -> dict[str, float]:
    """Trains for ``settings.steps`` steps and writes the weights.

    Args:
        settings: The ``pretrain`` block of params.yaml.
        state_path: The file of the checkpoint. An interrupted run resumes from it.
        out_path: The safetensors file to write.
        threads: The CPU threads of torch.

    Returns:
        R@1 in both directions (percent) on 512 unseen stills, the last loss, and the seconds.
    """
    torch.set_num_threads(threads)
    started = time.monotonic()
    model = new_model(settings.seed)
    optimizer = _optimizer(model, settings)
    first, loss = _resume(state_path, model, optimizer), torch.tensor(float("nan"))
    tokenizer = mini.mini_tokenizer(model.context_length)
    for step, (pictures, tokens) in enumerate(_batches(settings, tokenizer, model.visual.image_size[0], first), first):
        rate = _rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * rate * group["factor"]
        loss = contrastive_loss(*encode(model, pictures, tokens), model.logit_scale.exp(), tokens)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        if (step + 1) % 50 == 0:
            speed = (time.monotonic() - started) / (step + 1 - first)
            scale = model.logit_scale.exp().item()
            done = f"step {step + 1}/{settings.steps}"
            log.info("%s loss %.3f scale %.1f (%.2f s/step)", done, loss.item(), scale, speed)
        if (step + 1) % SAVE_EVERY == 0:
            _save_state(state_path, model, optimizer, step + 1)
    metrics = evaluate(model, settings)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, out_path)
    state_path.unlink(missing_ok=True)
    return {**metrics, "loss": round(loss.item(), 4), "seconds": round(time.monotonic() - started, 1)}


def encode(model: open_clip.CLIP, pictures: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """L2-normalised features: ``float[B, 3, S, S], int[B, L] -> float[B, D], float[B, D]``.

    L may be shorter than the context length of the model.
    """
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    text = x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection
    return F.normalize(model.visual(pictures), dim=-1), F.normalize(text, dim=-1)


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, tokens: Tensor) -> Tensor:
    """The symmetric cross-entropy. Pictures with the same caption share the target equally."""
    same = (tokens[:, None, :] == tokens[None, :, :]).all(dim=-1).float()
    target = same / same.sum(dim=1, keepdim=True)
    logits = scale * image @ text.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def evaluate(model: open_clip.CLIP, settings: PretrainSettings, count: int = 512) -> dict[str, float]:
    """R@1 in both directions (percent) on ``count`` stills that training never draws. Equal captions count as one."""
    rng = np.random.default_rng((settings.seed, 2))
    pictures, texts = stills.batch(model.visual.image_size[0], count, 1, settings.motion_share, rng)
    image, text = encode(model, _normalize(pictures), _tokenize(mini.mini_tokenizer(model.context_length), texts))
    similarity = image @ text.T
    names = np.array(texts)
    i2t = names[similarity.argmax(dim=1).numpy()] == names
    t2i = names[similarity.argmax(dim=0).numpy()] == names
    return {"i2t_R@1": round(100 * float(i2t.mean()), 1), "t2i_R@1": round(100 * float(t2i.mean()), 1)}


def _batches(settings: PretrainSettings, tokenizer: Any, size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from step ``start`` on. Each step has a separate generator, so that a resumed run draws the same."""

    def make(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((settings.seed, 1, step))
        pictures, texts = stills.batch(size, settings.batch_size, GROUP, settings.motion_share, rng)
        return _normalize(pictures), _tokenize(tokenizer, texts)

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(make, start)
        for step in range(start, settings.steps):
            ready = pending.result()
            pending = pool.submit(make, step + 1)
            yield ready


def _normalize(pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - mean) / std


def _tokenize(tokenizer: Any, texts: list[str]) -> Tensor:
    tokens: Tensor = tokenizer(texts)
    return tokens[:, : int((tokens != 0).sum(dim=1).max())]


def _rate(step: int, settings: PretrainSettings) -> float:
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(model: open_clip.CLIP, settings: PretrainSettings) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim == 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "factor": 1.0},
            {"params": others, "factor": 1.0, "weight_decay": 0.0},
            {"params": [model.logit_scale], "factor": LOGIT_SCALE_LR, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
    )


def _save_state(path: Path, model: open_clip.CLIP, optimizer: torch.optim.Optimizer, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, aside)
    aside.replace(path)


def _resume(path: Path, model: open_clip.CLIP, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    log.info("resumed at step %d from %s", state["step"], path)
    return int(state["step"])

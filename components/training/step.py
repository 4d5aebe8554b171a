"""Loss and gradients of one global batch, the same for any number of processes and however little memory they have.

A batch is split into micro-batches. Each is encoded in a separate pass, whichever process does it. All processes gather
the embeddings of all micro-batches and compute the whole loss and its gradient with respect to them. Each process sends
this gradient back through the graphs of its micro-batches, and the parameter gradients are added in one fixed tree. So
the micro-batches decide the rounding, not the processes. With ``grad_cache`` the first pass keeps no graph, and each
micro-batch is encoded again when its turn comes (Gao et al. 2021, GradCache): the memory of one micro-batch, the result
of the whole batch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from components.backbones.towers import checkpointed
from components.errors import ConfigError
from components.methods.base import Method
from components.precision import autocast
from components.processes import gather
from components.training.batch import Batch, MicroBatch
from components.training.frozen import FrozenLayers
from components.training.gradients import Gradients, TreeSum, sum_over_processes, take_gradients
from components.training.loss import multi_positive_nce, nce_of_scores, scaled_scores, sigmoid_loss
from components.training.settings import TrainingSettings

# What the towers make of a micro-batch: embeddings of its videos and captions, float[b, W_v] and float[c, W_t], and
# float[b, W] for a loss over captions of frames, if the method has one.
Encoded = tuple[Tensor, ...]


class StepGradients:
    """Gives each trainable parameter the gradient of a batch's loss.

    Args:
        method: The method, on the device to train on.
        settings: Precision, and what is kept for the backward pass.
        seed: Fixes dropout, together with the step and the micro-batch.
        cache_mib: Memory for ``cache_frozen``.

    Raises:
        ConfigError: The settings ask for a sigmoid loss, and the backbone has no logit bias.
    """

    def __init__(self, method: Method, settings: TrainingSettings, seed: int, cache_mib: int = 0) -> None:
        self.method, self.settings, self.seed = method, settings, seed
        self.parameters = list(method.trainable().values())
        self.bias = bias_of_loss(method, settings)
        self.frozen = FrozenLayers(method, cache_mib) if settings.cache_frozen else None

    def backward(self, batch: Batch, step: int) -> Tensor:
        """Sets ``grad`` of every trainable parameter, the same in each process; zero where the loss needs none.

        Args:
            batch: The batch, on the method's device.
            step: The number of finished steps.

        Returns:
            float[], the loss.
        """
        take_gradients(self.parameters)
        micro_batches = batch.micro_batches()
        with torch.set_grad_enabled(not self.settings.grad_cache):
            encoded: deque[Encoded] = deque(self._encode(part, step) for part in micro_batches)
        loss, gradients = self._loss(batch, list(encoded))
        # What the loss reaches without an embedding (the logit scale). It is complete in every process.
        direct = take_gradients(self.parameters)
        tree = TreeSum()
        for part, of_part in zip(micro_batches, gradients, strict=True):
            outputs = encoded.popleft()
            _send_back(self._encode(part, step) if self.settings.grad_cache else outputs, of_part)
            tree.add(take_gradients(self.parameters))
        nothing: Gradients = [None] * len(self.parameters)
        totals = sum_over_processes(self.parameters, tree.total() if micro_batches else nothing)
        for parameter, total, more in zip(self.parameters, totals, direct, strict=True):
            parameter.grad = total if more is None else total.add_(more)
        return loss

    def probe(self, videos: int, captions: int) -> None:
        """A forward and a backward pass of random videos and full texts, for their memory and cost.

        No gradient is kept. Only this process takes part.
        """
        method, device = self.method, next(self.method.parameters()).device
        side, text = method.spec.image_size, "a " * method.words
        part = MicroBatch(
            number=0,
            ids=("",) * videos,
            frames=torch.zeros(videos, method.frames, 3, side, side, dtype=torch.uint8, device=device),
            mask=torch.ones(videos, method.frames, dtype=torch.bool, device=device),
            tokens=method.backbone.tokenize([text] * captions, method.words).to(device),
        )
        if method.caption_loss is not None:
            of_frames = method.backbone.tokenize([text] * (videos * method.frames), method.words).to(device)
            part = replace(part, frame_captions=of_frames.unflatten(0, (videos, method.frames)))
        encoded = self._encode(part, 0)
        _send_back(encoded, tuple(torch.ones_like(output) for output in encoded))
        take_gradients(self.parameters)

    def _encode(self, part: MicroBatch, step: int) -> Encoded:
        """What the loss needs of a micro-batch. Dropout draws the same each time."""
        torch.manual_seed(_dropout_seed(self.seed, step, part.number))
        with (
            autocast(self.settings.precision, part.frames.device),
            checkpointed(self.method.backbone, self.settings.checkpoint_activations),
        ):
            frames = self.method.backbone.normalize(part.frames)
            encoded: Encoded
            if self.frozen is None and self.method.caption_loss is None:
                encoded = self.method(frames, part.mask, part.tokens)
            else:
                encoded = self._from_features(part, frames)
        return tuple(output.float() for output in encoded)

    def _from_features(self, part: MicroBatch, frames: Tensor) -> Encoded:
        """:meth:`_encode` where more is made of the features of frames than the videos' embeddings."""
        method = self.method
        if self.frozen is None:
            features = method.frame_features(frames, part.mask)
        else:
            features = self.frozen.frame_features(part.ids, frames, part.mask)
        both = method.embedding(features, part.mask), method.encode_text(part.tokens)
        if method.caption_loss is None:
            return both
        assert part.frame_captions is not None
        return *both, method.caption_loss.rows(features, part.mask, part.frame_captions)

    def _loss(self, batch: Batch, encoded: list[Encoded]) -> tuple[Tensor, list[Encoded]]:
        """The loss of the whole batch, and its gradient with respect to what each micro-batch gave for it."""
        method, of_frames = self.method, self.method.caption_loss
        sizes = [batch.videos, batch.captions, *([] if of_frames is None else [batch.videos])]
        widths = [method.video_width, method.text_width, *([] if of_frames is None else [of_frames.width])]
        # A process may have no micro-batch, and then no rows of any kind.
        local = [[outputs[kind] for outputs in encoded] for kind in range(len(sizes))]
        whole = [self._gathered(batch, *of_kind) for of_kind in zip(local, sizes, widths, strict=True)]
        videos, texts, *rows = whole
        pairs_of = (batch.owner, batch.same_text, self.settings.equal_captions == "positives")
        scale, similarity = method.logit_scale, method.similarity
        if self.bias is None:
            loss = multi_positive_nce(videos, texts, scale, *pairs_of, similarity)
        else:
            loss = sigmoid_loss(videos, texts, scale, self.bias, *pairs_of, similarity)
        if of_frames is not None:
            owner, same_text, positives = pairs_of
            contrast = partial(nce_of_scores, owner=owner, same_text=same_text, positives=positives)
            loss = loss + of_frames.loss(scaled_scores(videos, texts, scale, similarity), rows[0], contrast)
        loss.backward()
        gradients = [_local_gradients(every, batch, of_kind) for every, of_kind in zip(whole, sizes, strict=True)]
        return loss.detach(), list(zip(*gradients, strict=True))

    def _gathered(self, batch: Batch, local: list[Tensor], sizes: tuple[int, ...], width: int) -> Tensor:
        """Embeddings of the whole batch as the start of a graph."""
        # A process may have no rows, and torch.cat needs a tensor.
        empty = torch.zeros(0, width, device=batch.owner.device)
        rows = torch.cat([empty, *(part.detach() for part in local)])
        return gather(rows, batch.sizes_by_process(sizes)).requires_grad_()


def bias_of_loss(method: Method, settings: TrainingSettings) -> Tensor | None:
    """The logit bias of a sigmoid loss; None for the softmax loss."""
    if settings.loss == "sigmoid" and method.logit_bias is None:
        raise ConfigError(
            "the backbone has no logit bias",
            where="training.loss",
            found=settings.loss,
            expected=f"softmax or auto on {method.spec.model}",
        )
    return None if settings.loss == "softmax" else method.logit_bias


def _local_gradients(embeddings: Tensor, batch: Batch, sizes: tuple[int, ...]) -> list[Tensor]:
    """The gradients of this process's micro-batches, without empty ones."""
    assert embeddings.grad is not None
    parts = embeddings.grad.split(list(sizes))
    return [parts[index] for index in batch.local if sizes[index]]


def _send_back(encoded: Encoded, gradients: Encoded) -> None:
    """Back-propagates into what the outputs of the towers depend on. A frozen tower has no graph."""
    ends = [(out, gradient) for out, gradient in zip(encoded, gradients, strict=True) if out.requires_grad]
    if ends:
        torch.autograd.backward([out for out, _ in ends], [gradient for _, gradient in ends])


def _dropout_seed(seed: int, step: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, step, number]).generate_state(1, np.uint64)[0] >> 1)

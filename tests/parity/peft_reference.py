"""Writes tests/golden/peft_ia3.npz and peft_dora.npz: what peft computes on the reference CLIP.

peft and transformers are not among the project's packages. In an environment of its own::

    python -m venv /tmp/reference
    /tmp/reference/bin/pip install peft==0.21.2 transformers==5.24.0 torch numpy
    /tmp/reference/bin/python tests/parity/peft_reference.py

The CLIP of ``backbone.npz`` becomes a ``transformers.CLIPModel``. Its query, key and value maps are apart there. DoRA's
A, which the fused map shares, is given to all three, so the gradient of A is the sum of theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

FOLDER = Path(__file__).parents[1] / "golden"
MAPS = {"out_proj": "out", "fc1": "fc", "fc2": "proj"}
LAYERS = [0, 2]


def reference_clip(weights: dict[str, np.ndarray]) -> Any:
    """``transformers.CLIPModel`` with the weights of ``backbone.npz``."""
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = {
        **tower,
        "vocab_size": 100,
        "max_position_embeddings": 12,
        "bos_token_id": 98,
        "eos_token_id": 99,
        "projection_dim": 32,
    }
    vision = {**tower, "image_size": 32, "patch_size": 8, "projection_dim": 32}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
    theirs: dict[str, torch.Tensor] = {}
    for key, array in weights.items():
        value, name = torch.from_numpy(array), key.removeprefix("clip.")
        name = name.replace("visual.transformer.resblocks", "vision_model.encoder.layers")
        name = name.replace("transformer.resblocks", "text_model.encoder.layers")
        for old, new in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("c_fc", "fc1"), ("c_proj", "fc2")):
            name = name.replace(old, new)
        name = name.replace(".attn.", ".self_attn.")
        if ".in_proj_" in name:
            stem, kind = name.split("in_proj_")
            theirs |= {f"{stem}{p}_proj.{kind}": v for p, v in zip("qkv", value.chunk(3), strict=True)}
            continue
        for old, new in {
            "visual.class_embedding": "vision_model.embeddings.class_embedding",
            "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
            "visual.conv1": "vision_model.embeddings.patch_embedding",
            "visual.ln_pre": "vision_model.pre_layrnorm",
            "visual.ln_post": "vision_model.post_layernorm",
            "visual.proj": "visual_projection.weight",
            "token_embedding": "text_model.embeddings.token_embedding",
            "positional_embedding": "text_model.embeddings.position_embedding.weight",
            "ln_final": "text_model.final_layer_norm",
            "text_projection": "text_projection.weight",
        }.items():
            if name.startswith(old):
                name = name.replace(old, new)
                break
        theirs[name] = value.T if name.endswith("_projection.weight") else value
    missing, unexpected = model.load_state_dict(theirs, strict=False)
    assert not unexpected, unexpected
    assert all("position_ids" in name for name in missing), missing
    return model


def our_name(theirs: str) -> tuple[str, str, str, str]:
    """Tower, layer, map and parameter of a name in peft's model."""
    tower = "video" if "vision_model" in theirs else "text"
    words = theirs.split(".")
    at = words.index("layers")
    return tower, words[at + 1], words[at + 3], ".".join(words[at + 4 :])


def outputs(model: Any, case: Any) -> dict[str, np.ndarray]:
    """Embeddings of frames and texts, and the gradient's seed: the sum of all their products with fixed weights."""
    tokens = torch.from_numpy(case["in.text"])
    found = model(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        pixel_values=torch.from_numpy(case["in.video"]).flatten(0, 1),
    )
    weight = torch.linspace(-1, 1, 32)
    frames, text = F.normalize(found.image_embeds, dim=-1), F.normalize(found.text_embeds, dim=-1)
    ((frames * weight).sum() + (text * weight).sum()).backward()
    return {"out.frames": frames.detach().numpy(), "out.text": text.detach().numpy()}


def ia3(weights: dict[str, np.ndarray], case: Any) -> dict[str, np.ndarray]:
    """Scales by ``k, v, ff`` and their gradients."""
    config = IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"])
    model = get_peft_model(reference_clip(weights), config).eval()
    generator = torch.Generator().manual_seed(1)
    places = {"k_proj": "k", "v_proj": "v", "fc2": "ff"}
    trained = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tower, layer, kind, _ = our_name(name)
            parameter.data = 1 + 0.3 * torch.randn(parameter.shape, generator=generator)
            trained[f"{tower}.{layer}.{places[kind]}"] = parameter
    found = outputs(model, case)
    for name, parameter in trained.items():
        found[name] = parameter.detach().flatten().numpy()
        assert parameter.grad is not None
        found[f"grad.{name}"] = parameter.grad.flatten().numpy()
    return found


def dora(weights: dict[str, np.ndarray], case: Any) -> dict[str, np.ndarray]:
    """A, B and magnitudes of all four maps in two layers, with rank 2 and alpha 3, and their gradients."""
    config = LoraConfig(
        r=2, lora_alpha=3, use_dora=True, layers_to_transform=LAYERS, layers_pattern="layers",
        target_modules=["q_proj", "k_proj", "v_proj", *MAPS],
    )  # fmt: skip
    model = get_peft_model(reference_clip(weights), config).eval()
    generator = torch.Generator().manual_seed(2)
    kinds = {"lora_A.default.weight": "update.a", "lora_B.default.weight": "update.b"}
    kinds["lora_magnitude_vector.default.weight"] = "magnitude"
    groups: dict[str, list[Any]] = {}
    # transformers defines them in the order k, v, q. The fused map has q, k, v.
    for name, parameter in sorted(model.named_parameters(), key=lambda item: "q_proj" not in item[0]):
        if parameter.requires_grad:
            tower, layer, kind, rest = our_name(name)
            groups.setdefault(f"{tower}.{layer}.{MAPS.get(kind, 'qkv')}.{kinds[rest]}", []).append(parameter)
    for name, members in groups.items():
        shared = torch.randn(members[0].shape, generator=generator) * 0.3
        for parameter in members:
            if name.endswith(".a"):
                parameter.data = shared.clone()
            elif name.endswith(".b"):
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
            else:
                parameter.data = parameter.data * (1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    found = outputs(model, case)
    for name, members in groups.items():
        gradients = [parameter.grad for parameter in members]
        if name.endswith(".a"):
            found[name], found[f"grad.{name}"] = members[0].detach().numpy(), sum(gradients).numpy()
        else:
            found[name] = torch.cat([parameter.detach() for parameter in members]).numpy()
            found[f"grad.{name}"] = torch.cat(gradients).numpy()
    return found


if __name__ == "__main__":
    with np.load(FOLDER / "backbone.npz") as loaded:
        clip = {name: loaded[name] for name in loaded.files}
    with np.load(FOLDER / "case01_plain_meanp.npz") as inputs:
        np.savez_compressed(FOLDER / "peft_ia3.npz", **ia3(clip, inputs))  # type: ignore[arg-type]
        np.savez_compressed(FOLDER / "peft_dora.npz", **dora(clip, inputs))  # type: ignore[arg-type]

"""Settings of methods: the papers' defaults, messages for faults, published sizes."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from tiny_backbone import FRAMES, TEXTS, WORDS, clips, make_backbone

from components.backbones.clip import Backbone
from components.backbones.load import create
from components.backbones.towers import Chain, Flow
from components.errors import ConfigError
from components.methods import METHODS
from components.methods.base import Method
from components.methods.build import build, read_settings

BACKBONE = make_backbone()


def make(name: str, raw: dict[str, Any], frames: int = FRAMES, words: int = WORDS) -> Method:
    return build(name, {"lr": 1e-3, **raw}, BACKBONE, frames=frames, words=words)


class TestFaults:
    def test_all_faults_at_once_with_key_and_nearest_name(self) -> None:
        with pytest.raises(ConfigError) as caught:
            read_settings("mv_adapter", {"lr": "fast", "bottlenek": 16, "scale": True})
        message = str(caught.value)
        assert "methods.mv_adapter" in message
        for part in ("lr: ", "bottlenek: unknown key", "scale: "):
            assert part in message

    @pytest.mark.parametrize("name", [name for name in METHODS if name != "zero_shot"])
    def test_learning_rate_must_be_given_and_positive(self, name: str) -> None:
        with pytest.raises(ConfigError, match="lr: missing"):
            read_settings(name, {})
        with pytest.raises(ConfigError, match="lr: "):
            read_settings(name, {"lr": 0.0})

    def test_unknown_method(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'mv_adapter'"):
            read_settings("mv_adaptor", {})

    @pytest.mark.parametrize(
        ("name", "raw", "message"),
        [
            ("vop", {"video_prompts": 0, "text_prompts": 0}, "nothing would train"),
            ("vop", {"suffix_prompts": 2}, "needs text_layout: released"),
            ("vop", {"text_layout": "released", "suffix_prompts": 9}, "more than text_prompts"),
            ("vop", {"text_layout": "released", "text_prompts": 9}, "12 words \\+ 9 prompts'; expected at most 20"),
            ("mv_adapter", {"bottleneck": 15}, "not a multiple of heads"),
            ("mv_adapter", {"vision_layers": [0, 3]}, r"vision_layers.*out of range.*0 to 2"),
            ("mv_adapter", {"text_layers": [-4]}, r"text_layers.*out of range"),
            ("mv_adapter", {"tied_layers": 4}, "tied_layers.*out of range"),
            ("mv_adapter", {"tied_layers": [0, 3]}, "tied_layers.*out of range"),
            ("mv_adapter", {"vision_layers": [0, 1]}, "tied layers have no adapter"),
        ],
    )
    def test_settings_that_do_not_fit(self, name: str, raw: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            make(name, raw)

    def test_words_and_frames_beyond_the_method(self) -> None:
        with pytest.raises(ConfigError, match="found 21; expected words <= 20"):
            make("vop", {}, words=21)
        method = make("mv_adapter", {}, frames=3, words=6)
        with pytest.raises(ConfigError, match="found 5; expected frames <= 3"):
            method.encode_video(*clips(BACKBONE))
        with pytest.raises(ConfigError, match="found 12; expected words <= 6"):
            method.encode_text(BACKBONE.tokenize(TEXTS, WORDS))

    def test_settings_of_another_method(self) -> None:
        with pytest.raises(ConfigError, match="settings belong to another method"):
            build("vop", read_settings("full", {"lr": 1e-3}), BACKBONE, frames=2, words=6)


class TestPublishedSizes:
    """Parameter counts. They need no weights, so everything is built on the meta device."""

    @staticmethod
    def count(name: str, raw: dict[str, Any], model: str, frames: int = 12, words: int = 32) -> int:
        with torch.device("meta"):
            backbone = Backbone(create(model, open_clip.get_model_config(model)), model, open_clip.SimpleTokenizer())
            method = build(name, {"lr": 1e-3, **raw}, backbone, frames=frames, words=words)
        return sum(parameter.numel() for parameter in method.trainable().values())

    def test_vop_on_base_32(self) -> None:
        assert self.count("vop", {}, "ViT-B-32") == 122_880

    def test_full_is_everything_but_the_logit_scale(self) -> None:
        assert self.count("full", {}, "ViT-B-32") == 151_277_313 - 1

    @pytest.mark.parametrize("model", ["ViT-B-32", "ViT-B-16"])
    @pytest.mark.parametrize(
        ("raw", "frames", "words", "expected"),
        [
            ({"tied_layers": 0}, 12, 32, 3_317_184),
            ({}, 12, 32, 3_572_736 - 171_008),  # MSR-VTT and MSVD; the printed sizes count CLIP's 171,008 biases
            ({"tied_layers": 3}, 12, 32, 3_615_008 - 171_008),  # LSMDC
            ({}, 32, 64, 3_628_032 - 171_008),  # DiDeMo
            ({"tied_layers": 1}, 32, 64, 3_585_760 - 171_008),  # ActivityNet
            ({"tied_layers": 1, "input_norm": True}, 32, 64, 3_616_480 - 171_008),  # as released
            ({"tie": "down_out"}, 12, 32, 3_496_704 - 171_008),  # MSR-VTT as released
        ],
    )
    def test_mv_adapter(self, model: str, raw: dict[str, Any], frames: int, words: int, expected: int) -> None:
        assert self.count("mv_adapter", raw, model, frames, words) == expected

    def test_mv_adapter_parts(self) -> None:
        with torch.device("meta"):
            backbone = Backbone(create("x", open_clip.get_model_config("ViT-B-16")), "x", open_clip.SimpleTokenizer())
            method: Any = build("mv_adapter", {"lr": 1e-3}, backbone, frames=12, words=32)
        size = {name: sum(p.numel() for p in part.parameters()) for name, part in method.video["0"].named_children()}
        assert (size["down"], size["up"]) == (49_216, 49_920)
        assert size["block"] == 49_984
        assert size["calibration"] == 7_248
        assert sum(p.numel() for p in method.video["0"].parameters()) == 158_160
        assert sum(p.numel() for p in method.text["0"].parameters()) == 118_272
        assert sum(p.numel() for p in backbone.parameters()) == 149_620_737
        assert sum(p.numel() for n, p in backbone.named_parameters() if n.endswith("bias")) == 171_008


class TestVoP:
    def test_one_tower_alone(self) -> None:
        inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
        plain = build("zero_shot", {}, BACKBONE, frames=FRAMES, words=WORDS)(*inputs)
        video_only, text_only = make("vop", {"text_prompts": 0}), make("vop", {"video_prompts": 0})
        assert list(video_only.trainable()) == ["generic_prompts"]
        assert list(text_only.trainable()) == ["text_prompts"]
        assert torch.equal(video_only(*inputs)[1], plain[1])
        assert torch.equal(text_only(*inputs)[0], plain[0])

    def test_prompts_start_small(self) -> None:
        torch.manual_seed(0)
        method = make("vop", {"video_prompts": 64, "text_prompts": 64})
        for parameter in method.trainable().values():
            assert abs(float(parameter.detach().std()) - 0.02) < 1e-3


class TestMVAdapter:
    def test_factor_bias_starts_as_asked(self) -> None:
        bias = [
            p
            for name, p in make("mv_adapter", {"factor_bias_init": 1.0}).trainable().items()
            if name.endswith("tie.bias")
        ]
        assert len(bias) == 4
        assert all(torch.equal(p, torch.ones_like(p)) for p in bias)
        loose = [p for name, p in make("mv_adapter", {}).trainable().items() if name.endswith("tie.bias")]
        assert all(0 < float(p.detach().abs().max()) <= 32**-0.5 for p in loose)

    def test_tied_layers_are_counted_from_the_end_of_each_tower(self) -> None:
        deep = make_backbone(text_cfg={"context_length": 20, "vocab_size": 49408, "layers": 4, "width": 16, "heads": 2})
        method = build("mv_adapter", {"lr": 1e-3}, deep, frames=FRAMES, words=WORDS)
        tied = sorted(name for name in method.trainable() if name.endswith("tie.bias"))
        assert tied == ["text.2.tie.bias", "text.3.tie.bias", "video.1.tie.bias", "video.2.tie.bias"]
        assert len([name for name in method.trainable() if name.startswith("factors.")]) == 2

    def test_a_shared_factor_moves_both_towers(self) -> None:
        torch.manual_seed(2)
        method = make("mv_adapter", {})
        inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
        with torch.no_grad():
            for parameter in method.trainable().values():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            before = method(*inputs)
            method.trainable()["factors.0"].add_(1.0)
            after = method(*inputs)
        assert all((a - b).abs().max() > 1e-4 for a, b in zip(before, after, strict=True))

    @pytest.mark.parametrize("form", ["paper", "released"])
    def test_both_forms_start_as_clip_and_train(self, form: str) -> None:
        method = make("mv_adapter", {"form": form, "calibrate": ["class", "patch"]})
        inputs = (*clips(BACKBONE), BACKBONE.tokenize(TEXTS, WORDS))
        plain = build("zero_shot", {}, BACKBONE, frames=FRAMES, words=WORDS)
        frames, mask, tokens = inputs
        apart = (method.frame_features(frames, mask) - plain.frame_features(frames, mask))[mask]
        assert apart.abs().max() <= 1e-6
        assert (method.encode_text(tokens) - plain.encode_text(tokens)).abs().max() <= 1e-6
        video, text = method(*inputs)
        (video * text).sum().backward()
        assert all(p.grad is not None for name, p in method.trainable().items() if name.endswith("up.weight"))


def test_prompts_and_adapters_in_one_model() -> None:
    # The adapters see only CLIP's tokens, wherever the other method's prompts are.
    vop = make("vop", {"video_prompts": 3, "text_prompts": 4})
    adapter = make("mv_adapter", {})
    frames, mask = clips(BACKBONE)
    tokens = BACKBONE.tokenize(TEXTS, WORDS)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        video = Chain([vop.vision_hooks(), adapter.vision_hooks()])
        text = Chain([vop.text_hooks(), adapter.text_hooks()])
        flow = Flow(frames=FRAMES, mask=mask)
        return BACKBONE.vision(frames.flatten(0, 1), video, flow).view(4, FRAMES, -1)[mask], BACKBONE.text(tokens, text)

    prompts_only = vop.frame_features(frames, mask)[mask], BACKBONE.text(tokens, vop.text_hooks())
    assert all((a - b).abs().max() <= 1e-6 for a, b in zip(both(), prompts_only, strict=True))
    with torch.no_grad():
        for name, parameter in adapter.trainable().items():
            if ".up." in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    moved = both()
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(moved, prompts_only, strict=True))
    for features in moved:
        features.sum().backward(retain_graph=True)
    assert all(p.grad is not None for p in vop.trainable().values())

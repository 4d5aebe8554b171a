"""MV-Adapter's settings: its sizes, the switches in which the paper and the released code differ, and presets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from components import config
from components.errors import ConfigError
from components.methods.base import TrainedSettings

Form = Literal["released", "paper"]
Tie = Literal["down_in", "down_out", "up_in", "up_out", "down_in_class", "down_out_class"]
Width = Annotated[int, Field(ge=1)]

# What `form` sets where a setting is left out.
FORMS: dict[Form, dict[str, Any]] = {
    "released": {
        "down_activation": "all",
        "block_activation": True,
        "calibration_start": "identity",
        "normalize_frames": True,
    },
    "paper": {
        "down_activation": "patches",
        "block_activation": False,
        "calibration_start": "random",
        "normalize_frames": False,
    },
}

_RELEASED = {"lr": 5.0e-6, "train_biases": True, "bias_lr": 1.0e-7}
_PAPER = {"lr": 5.0e-6, "tie": "down_in", "tied_layers": 2}

# The published settings of each benchmark (ViT-B); frames, words, epochs and batch stand in the task's recipe.
PRESETS: dict[Form, dict[str, dict[str, Any]]] = {
    "released": {
        "msrvtt": {**_RELEASED, "tie": "down_out", "tied_layers": [10, 11]},
        "msvd": {**_RELEASED, "tie": "down_in", "tied_layers": [10, 11]},
        "lsmdc": {**_RELEASED, "tie": "down_in", "tied_layers": [9, 10, 11]},
        "didemo": {**_RELEASED, "tie": "down_out", "tied_layers": [10, 11]},
        "activitynet": {**_RELEASED, "tie": "down_in", "tied_layers": [11], "input_norm": True},
    },
    # The text says two tied layers everywhere; the printed shares of LSMDC and ActivityNet fit three and one.
    "paper": {
        "msrvtt": _PAPER,
        "msvd": _PAPER,
        "lsmdc": {**_PAPER, "tied_layers": 3},
        "didemo": _PAPER,
        "activitynet": {**_PAPER, "tied_layers": 1},
    },
}


@dataclass(frozen=True, config=config.STRICT)
class MVAdapterSettings(TrainedSettings):
    """Sizes and forms; the defaults are the paper's for ViT-B (bottleneck 128 for ViT-L/14).

    Attributes:
        preset: a benchmark whose published settings, in this ``form``, are the defaults of all others.
        form: the released code's arithmetic or the paper's, where a switch below is left out.
        bottleneck: d', width of the bottleneck in the vision tower, and in the text tower unless ``text_bottleneck``.
        scale: s, factor on the adapter's output.
        factor: d_m, size of the factor that both towers share in a tied layer.
        tied_layers: layers that are tied across modalities: how many of the last ones of each tower, or their numbers,
            from 0 where both towers are equally deep, or negative from the end.
        tie: which side of which matrix the tie scales. ``down_*_class`` ties the vision tower's class tokens alone.
            Ties on W_up touch class tokens only; biases are never scaled.
        tie_bias: whether the projection of the shared factor has a bias. With one, the factor starts at zero and so the
            tie at the bias; without, the factor starts from a normal distribution.
        factor_bias_init: start of that bias; "default" is the release's (uniform in +-1/sqrt(factor)).
        heads: attention heads of TRM.
        placement: what the adapter reads: the MLP's output (``seq``), the MLP's input before (``par``) or behind its
            layer norm (``ln_par``). Its output is added to the MLP's in all three.
        cc: whether the CC token takes part.
        calibrate: which tokens are calibrated.
        calibration_width: width between FC1 and FC2.
        input_norm: whether a layer norm stands before W_down.
        positions: whether learned positions and a layer norm stand before TRM.
        patch_pooling: patches of a frame to one vector: their mean, or their sum along the first principal axis.
        cc_map: whether CC passes a linear map g before calibration.
        text_attention: whether TRM in the text tower is causal, or sees all tokens up to the end token.
        down_activation: QuickGELU behind W_down in the vision tower: on ``all`` that follows, or on the
            ``patches``' own way up alone. Left out, ``form`` decides.
        block_activation: whether QuickGELU stands behind TRM. Left out, ``form`` decides.
        calibration_start: ``identity``: 1 + FC2(...), FC2 at zero; ``random``: FC2(...). Left out, ``form`` decides.
        normalize_frames: whether frames are L2-normalised before their mean. Left out, ``form`` decides.
        text_bottleneck: width of the bottleneck in the text tower, if another one.
        vision_layers: layers with an adapter, from 0; None for all.
        text_layers: the same of the text tower.
    """

    preset: Literal["msrvtt", "msvd", "lsmdc", "didemo", "activitynet"] | None = None
    form: Form = "released"
    bottleneck: Width = 64
    scale: float = 0.1
    factor: Width = 32
    tied_layers: Annotated[int, Field(ge=0)] | tuple[int, ...] = 2
    tie: Tie = "down_in"
    tie_bias: bool = True
    factor_bias_init: Literal["default"] | float = "default"
    heads: Width = 2
    placement: Literal["seq", "par", "ln_par"] = "seq"
    cc: bool = True
    calibrate: tuple[Literal["class", "patch"], ...] = ("class",)
    calibration_width: Width = 16
    input_norm: bool = False
    positions: bool = True
    patch_pooling: Literal["mean", "pca"] = "mean"
    cc_map: bool = True
    text_attention: Literal["causal", "full"] = "causal"
    down_activation: Literal["all", "patches"] | None = None
    block_activation: bool | None = None
    calibration_start: Literal["identity", "random"] | None = None
    normalize_frames: bool | None = None
    text_bottleneck: Width | None = None
    vision_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None

    @classmethod
    def expand(cls, raw: dict[str, Any], where: str) -> dict[str, Any]:
        """The preset's settings under those that are given."""
        preset, form = raw.get("preset"), raw.get("form", "released")
        if preset is None or form not in PRESETS:
            return raw
        if preset not in PRESETS[form]:
            known = ", ".join(PRESETS[form])
            raise ConfigError("no such preset", where=f"{where}.preset", found=preset, expected=f"one of {known}")
        return {**PRESETS[form][preset], **raw}

    def __post_init__(self) -> None:
        for field, width in (("bottleneck", self.bottleneck), ("text_bottleneck", self.text_bottleneck or self.heads)):
            if width % self.heads:
                raise ValueError(f"{field} ({width}) is not a multiple of heads ({self.heads})")
        if not self.tie_bias and self.factor_bias_init != "default":
            raise ValueError("factor_bias_init needs tie_bias: true")
        for name, value in FORMS[self.form].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

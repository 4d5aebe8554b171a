"""MV-Adapter's settings: its sizes, presets, and switches for the differences between the paper and the release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from components.config import STRICT
from components.errors import ConfigError
from components.methods.base import TrainedSettings

Form = Literal["released", "paper"]
Tie = Literal["down_in", "down_out", "up_in", "up_out", "down_in_class", "down_out_class"]
Width = Annotated[int, Field(ge=1)]

# The values that `form` gives to settings that are left out.
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

# The published settings of each benchmark (ViT-B). Frames, words, epochs and batch size are in the recipe of the task.
PRESETS: dict[Form, dict[str, dict[str, Any]]] = {
    "released": {
        "msrvtt": {**_RELEASED, "tie": "down_out", "tied_layers": [10, 11]},
        "msvd": {**_RELEASED, "tie": "down_in", "tied_layers": [10, 11]},
        "lsmdc": {**_RELEASED, "tie": "down_in", "tied_layers": [9, 10, 11]},
        "didemo": {**_RELEASED, "tie": "down_out", "tied_layers": [10, 11]},
        "activitynet": {**_RELEASED, "tie": "down_in", "tied_layers": [11], "input_norm": True},
    },
    # The text says two tied layers everywhere. The printed ratios fit three for LSMDC and one for ActivityNet.
    "paper": {
        "msrvtt": _PAPER,
        "msvd": _PAPER,
        "lsmdc": {**_PAPER, "tied_layers": 3},
        "didemo": _PAPER,
        "activitynet": {**_PAPER, "tied_layers": 1},
    },
}


@dataclass(frozen=True, config=STRICT)
class MVAdapterSettings(TrainedSettings):
    """Sizes and forms. The defaults are the paper's for ViT-B (bottleneck 128 for ViT-L/14).

    Attributes:
        preset: A benchmark. Its published settings, in this ``form``, replace the defaults of all other settings.
        form: The arithmetic of the released code or of the paper. It decides the switches below that are left out.
        bottleneck: d', width of the bottleneck in the vision tower. The text tower has the same width unless
            ``text_bottleneck`` is set.
        scale: s, the factor on the adapter's output.
        factor: d_m, size of the factor that both towers share in a tied layer.
        tied_layers: Layers that are tied across modalities. A number counts the last layers of each tower. A list holds
            their numbers: from 0 if both towers have the same depth, or negative from the end.
        tie: The matrix, and its side, that the tie scales. ``down_*_class`` ties only the vision tower's class tokens.
            Ties on W_up act only on class tokens. Biases are never scaled.
        tie_bias: Whether the projection of the shared factor has a bias. With a bias, the factor starts at zero and the
            tie starts at the bias. Without one, the factor starts from a normal distribution.
        factor_bias_init: Start of that bias. "default" is the release's (uniform in +-1/sqrt(factor)).
        heads: Attention heads of TRM.
        placement: What the adapter reads: the MLP's output (``seq``), or the MLP's input before (``par``) or after
            (``ln_par``) its layer norm. In all three, the adapter's output is added to the MLP's.
        cc: Whether the CC token takes part.
        calibrate: The tokens that are calibrated.
        calibration_width: Width between FC1 and FC2.
        input_norm: Whether a layer norm comes before W_down.
        positions: Whether learned positions and a layer norm come before TRM.
        patch_pooling: How the patches of a frame become one vector: by their mean, or by their sum along the first
            principal axis.
        cc_map: Whether CC passes a linear map g before calibration.
        text_attention: Whether TRM in the text tower is causal, or sees all tokens up to the end token.
        down_activation: QuickGELU after W_down in the vision tower: for all uses (``all``), or only for the patches'
            path to W_up (``patches``). If left out, ``form`` decides.
        block_activation: Whether QuickGELU follows TRM. If left out, ``form`` decides.
        calibration_start: ``identity``: 1 + FC2(...), FC2 at zero. ``random``: FC2(...). If left out, ``form`` decides.
        normalize_frames: Whether frames are L2-normalised before their mean. If left out, ``form`` decides.
        text_bottleneck: Width of the bottleneck in the text tower. None means ``bottleneck``.
        vision_layers: Layers of the vision tower with an adapter, from 0. None means all.
        text_layers: Layers of the text tower with an adapter, from 0. None means all.
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
    def expand(cls, name: str, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The settings of ``preset``, with ``raw`` on top."""
        preset, form = raw.get("preset"), raw.get("form", "released")
        if preset is None or form not in PRESETS:
            return dict(raw)
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

"""Trains the embedded mini CLIP on still pictures. `make pretrain` runs this, `dvc repro` never does.

The vocabulary is a part of the package and is written first.
"""

import json

import _here  # noqa: F401

from components import cli
from components.backbones import mini
from components.embedded import pretraining, vocabulary


def run(stage: cli.Stage) -> None:
    """Stills -> models/mini.safetensors and models/mini.json (its metrics)."""
    settings = stage.params.pretrain
    vocabulary.write_bpe(mini.BPE_PATH)
    # With one thread, sums have one order on any number of cores.
    state = stage.layout.work / "pretrain.pt"
    metrics = pretraining.pretrain(settings, state, stage.path("models", "mini.safetensors"), threads=1)
    stage.path("models", "mini.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(metrics))


if __name__ == "__main__":
    cli.main(run, __doc__ or "")

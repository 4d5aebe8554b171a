"""Trains the embedded mini CLIP on still pictures. `make pretrain` runs it; the pipeline itself never does."""

import json

from components import cli
from components.embedded import pretraining


def run(stage: cli.Stage) -> None:
    """Stills -> models/mini.safetensors and models/mini.json (its figures)."""
    settings = stage.params.pretrain
    # One thread: sums are then added in one order, whatever the number of cores.
    state = stage.layout.work / "pretrain.pt"
    figures = pretraining.pretrain(settings, state, stage.path("models", "mini.safetensors"), threads=1)
    stage.path("models", "mini.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    cli.main(run, __doc__ or "")

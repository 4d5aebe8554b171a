"""Scores one adapter on the validation and the test split."""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this stage."""
    parser.add_argument("--task", required=True, help="key of the task in params.yaml")
    parser.add_argument("--method", required=True, help="key of the method in params.yaml")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")


def body(stage: cli.Stage) -> None:
    """Adapter + frame store -> outputs/scorecards/<task>/<method>-<seed>/."""
    from components.adapters.file import load_adapter, read_card
    from components.backbones.load import load_backbone
    from components.backbones.naming import errors_under
    from components.evaluation.card import WHOLE
    from components.evaluation.card_text import warnings_of
    from components.evaluation.evaluate import evaluate
    from components.evaluation.scorecard import write_scorecard
    from components.frames.store import FrameStore
    from components.processes import pick_device

    args, params = stage.args, stage.params
    name = f"{args.method}-{args.seed}"
    folder = stage.layout.adapter(args.task, args.method, args.seed)
    store = FrameStore(stage.layout.frames(args.task))
    with errors_under(params.backbone_key(args.task)):
        backbone = load_backbone(params.backbone_of(args.task), stage.root)
    method = load_adapter(folder, backbone).to(pick_device(params.evaluation.device))
    for split in ("val", store.manifest.protocol.test_split):
        scorecard = evaluate(method, store, split, read_card(folder), args.seed, params.evaluation)
        write_scorecard(stage.layout.scorecards(args.task, args.method, args.seed), scorecard)
        for warning in warnings_of(scorecard.card):
            print(f"WARNING: {warning}")
        for direction, metrics in scorecard.card.metrics[WHOLE].items():
            shown = "  ".join(f"{key} {value:.1f}" for key, value in metrics.items())
            print(f"{args.task} {name} {split:5s} {direction}  {shown}")
        if scorecard.card.moments is not None:
            shown = "  ".join(f"{key} {value:.1f}" for key, value in scorecard.card.moments.metrics.items())
            print(f"{args.task} {name} {split:5s} moments  {shown}")


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)

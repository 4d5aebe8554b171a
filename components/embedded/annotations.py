"""Writes the annotations of the embedded collections in the formats of the published benchmarks."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from components.embedded.collections import VideoPlan


def write_msrvtt(plans: Sequence[VideoPlan], folder: Path) -> None:
    """Writes MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv and, for validation, MSRVTT_val.csv."""
    sentences = [(plan, text) for plan in plans for text in plan.texts]
    data = {
        "info": {"description": "shapes-clips, in the form of MSR-VTT"},
        "videos": [
            {"id": k, "video_id": plan.video_id, "split": plan.split, "start time": plan.spans_seconds[0][0],
             "end time": plan.spans_seconds[-1][1]}
            for k, plan in enumerate(plans)
        ],
        "sentences": [
            {"sen_id": k, "video_id": plan.video_id, "caption": text} for k, (plan, text) in enumerate(sentences)
        ],
    }  # fmt: skip
    write_json(folder / "MSRVTT_data.json", data)
    for name, split in (("MSRVTT_train.9k.csv", "train"), ("MSRVTT_val.csv", "val")):
        _write_csv(folder / name, ["video_id"], [[plan.video_id] for plan in plans if plan.split == split])
    test = [plan for plan in plans if plan.split == "test"]
    rows = [
        [f"ret{k}", "msr" + plan.video_id.removeprefix("video"), plan.video_id, plan.texts[0]]
        for k, plan in enumerate(test)
    ]
    _write_csv(folder / "MSRVTT_JSFUSION_test.csv", ["key", "vid_key", "video_id", "sentence"], rows)
    _write_subsets(plans, folder)


def write_activitynet(plans: Sequence[VideoPlan], folder: Path) -> None:
    """Writes train.json, val_1.json (the test split), val.json (validation), train_ids.json and val_ids.json."""
    names = {"train": "train.json", "val": "val.json", "test": "val_1.json"}
    for split, name in names.items():
        entries = {
            plan.video_id: {
                "duration": plan.spans_seconds[-1][1],
                "timestamps": [list(span) for span in plan.spans_seconds],
                "sentences": list(plan.texts),
            }
            for plan in plans
            if plan.split == split
        }
        write_json(folder / name, entries)
    write_json(folder / "train_ids.json", [plan.video_id for plan in plans if plan.split == "train"])
    write_json(folder / "val_ids.json", [plan.video_id for plan in plans if plan.split == "test"])
    _write_subsets(plans, folder)


def write_json(path: Path, value: object) -> None:
    """Writes UTF-8 JSON in one fixed layout, so that equal content gives equal bytes."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _write_subsets(plans: Sequence[VideoPlan], folder: Path) -> None:
    """Writes subsets.json: the named parts of the splits that are evaluated."""
    marked = [plan.video_id for plan in plans if plan.temporal and plan.split != "train"]
    write_json(folder / "subsets.json", {"temporal": marked})


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)

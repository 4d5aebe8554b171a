"""Writes the hash of each stage's code, so that DVC reruns what an edit changes and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import _here  # noqa: F401

from components import cli, storage
from components.benchmarks import BENCHMARKS
from components.captions import CAPTIONERS
from components.captions.file import uses_captions
from components.fingerprint import ROOTS, code_of
from components.ingest.decoders import DECODERS
from components.methods.entries import canonical, targets


def body(stage: cli.Stage) -> None:
    """The code -> outputs/fingerprints/<stage>.json, or <stage>/<entry>.json where entries run code of their own."""
    params = stage.params
    methods = {label: targets(canonical(label, raw)[0]) for label, raw in params.methods.items()}
    candidates = [target for label in params.tracking.methods if label in methods for target in methods[label]]
    decoder = DECODERS.target(params.frames.decoder, where="frames.decoder")
    entries: dict[str, list[str]] = {name: [] for name in ROOTS}
    entries["index"] = entries["register"] = candidates
    for name in ("ingest", "captions", "train", "evaluate"):
        del entries[name]
    for name, task in params.tasks.items():
        entries[f"ingest/{name}"] = [BENCHMARKS.target(task.benchmark, where=f"tasks.{name}.benchmark"), decoder]
    for label, names in methods.items():
        entries[f"train/{label}"] = entries[f"evaluate/{label}"] = names
    # These keys of a task may be left out, and DVC takes no parameter that may be missing.
    more: dict[str, dict[str, Any]] = {}
    for name, task in params.tasks.items():
        windows = {} if task.windows is None else {"windows": asdict(task.windows)}
        more[f"ingest/{name}"] = {"options": task.options, **windows}
        more[f"captions/{name}"] = {"methods": {label: uses_captions(raw) for label, raw in params.methods.items()}}
        if (source := task.captions) is not None:
            where = f"tasks.{name}.captions.captioner"
            entries[f"captions/{name}"] = (
                [] if source.captioner is None else [CAPTIONERS.target(source.captioner, where)]
            )
            decides = {"options": source.options, "table": source.table, "batch_size": source.batch_size}
            more[f"captions/{name}"] |= {"captioner": source.captioner, **decides}
    every = {*entries, *more}
    for entry in every:
        content = more.get(entry, {})
        # The note of a task without captions depends on no code.
        if entry in entries:
            code = code_of(entry.partition("/")[0], entries[entry])
            content = {"sha256": code.sha256, "files": code.files, **content}
        storage.write_bytes(stage.layout.fingerprint(entry), (json.dumps(content, indent=1) + "\n").encode())
    written = {stage.layout.fingerprint(entry) for entry in every}
    for left_over in {*stage.layout.fingerprints.rglob("*.json")} - written:
        left_over.unlink()


if __name__ == "__main__":
    cli.main(body, __doc__ or "")

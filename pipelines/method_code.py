"""Notes for each method of params.yaml the hash of the code behind it, so that DVC retrains what an edit concerns."""

from __future__ import annotations

import json

from components import cli, storage
from components.methods.base import canonical
from components.methods.code import code_hash, files_of


def body(stage: cli.Stage) -> None:
    """The entries of ``methods`` -> outputs/code/<entry>.json."""
    for label, raw in stage.params.methods.items():
        name, _ = canonical(label, raw)
        note = {"files": [path.name for path in files_of(name.split("+"))], "sha256": code_hash(name)}
        text = json.dumps(note, indent=1) + "\n"
        storage.write_bytes(stage.path("outputs", "code", f"{label}.json"), text.encode())


if __name__ == "__main__":
    cli.main(body, __doc__ or "")

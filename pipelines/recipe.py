"""Writes a benchmark's published settings into params.yaml. Keys that the recipe does not name keep their values."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _here  # noqa: F401

from components.errors import ReelTuneError
from components.recipes import apply


def main() -> None:
    """Parse the command line, apply the recipe and print what changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="a file in params/")
    parser.add_argument("paper", help="a section of the file, such as vop or mv_adapter")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of params.yaml")
    args = parser.parse_args()
    try:
        changed = apply(args.root / "params.yaml", args.recipe, args.paper)
    except ReelTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print("\n".join([f"{args.root / 'params.yaml'}: {len(changed)} settings from {args.recipe}", *changed]))


if __name__ == "__main__":
    main()

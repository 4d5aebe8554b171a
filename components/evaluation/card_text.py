"""A scorecard as text: the metrics with their intervals, then everything that they depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
WHOLE = "all"

SELECTED_ON_TEST = (
    "the epoch was chosen by these test figures: they are better than the adapter would do on videos not yet seen, and "
    "compare only with figures chosen the same way"
)


def warnings_of(card: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the metrics. Most cards have no warnings."""
    # In epoch 0 nothing was trained, so nothing was chosen.
    on_test = card.get("selected_on") == "test" and card.get("epoch") != 0
    return [SELECTED_ON_TEST] if on_test and card["split"] == card["protocol"]["test_split"] else []


def describe(card: Mapping[str, Any]) -> str:
    """A page of text for one card. Fields that the card lacks are left out."""
    head = f"{card.get('task', '?')}, split {card['split']}: {card.get('method', '?')}, seed {card.get('seed', '?')}"
    lines = [head, "=" * len(head), ""]
    for warning in warnings_of(card):
        lines += [f"WARNING: {warning}.", ""]
    for part, both in card["metrics"].items():
        title = "all queries" if part == WHOLE else f"queries of the part {part!r}, against the whole gallery"
        lines += [*_metrics(title, both, card["intervals"][part]), ""]
    for name, block in card.get("rescored", {}).items():
        title = f"RE-SCORED by {name}, which uses {block['uses']}; not comparable with the figures above"
        lines += [
            *_metrics(title, {key: block[key] for key in DIRECTIONS}, None),
            f"  settings: {_pairs(block['settings'])}",
            "",
        ]
    width = max(len(name) for name, _ in _facts(card))
    lines += [f"{name.ljust(width)}  {text}" for name, text in _facts(card)]
    return "\n".join(lines) + "\n"


def _metrics(title: str, both: Mapping[str, Any], intervals: Mapping[str, Any] | None) -> list[str]:
    names = list(next(iter(both.values())))
    cells = [["", *names]]
    for direction, text in DIRECTIONS.items():
        row = [text]
        for name in names:
            value = f"{both[direction][name]:.1f}"
            if intervals is not None:
                low, high = intervals[direction][name]
                value += f" [{low:.1f}, {high:.1f}]"
            row.append(value)
        cells.append(row)
    widths = [max(len(row[column]) for row in cells) for column in range(len(names) + 1)]
    return [
        title,
        *("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells),
    ]


def _facts(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    protocol = card["protocol"]
    yield "data set", f"{protocol['benchmark']}, {protocol['variant']}; tested on split {protocol['test_split']}"
    yield "captions", protocol["caption_rule"]
    yield "validation", protocol["validation"]
    counts = card["subset_queries"][WHOLE]
    yield "queries", f"{counts['t2v']} captions (text to video), {counts['v2t']} videos (video to text)"
    yield "gallery", f"{card['gallery']} videos, {card['failed_videos']} of which failed to decode and count as wrong"
    yield "ranks", card["rank_rule"]
    yield "ties", "; ".join(f"{DIRECTIONS[key]}: {_ties(both)}" for key, both in card["ties"][WHOLE].items())
    yield "intervals", card["interval_rule"]
    yield from _adapter_facts(card)


def _adapter_facts(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Describes the adapter and the frames."""
    if "settings" in card:
        yield "method", f"{card['method']}: {_pairs(card['settings'])}"
    if "trainable" in card.get("parameters", {}):
        yield "parameters", f"{card['parameters']['trainable']:,} trainable"
    if "backbone" in card:
        yield "backbone", _pairs(card["backbone"])
    if "frames" in card:
        yield "input", f"{card['frames']} frames, sampled {card['sampling']}; {card['words']} words"
        yield "decoding", _pairs(card["decoding"])
    if "epoch" in card:
        yield "epoch", f"{card['epoch']}, selected on {card['selected_on']}"
    if "provenance" in card:
        yield "commit", _commit(card["provenance"])
    for name in ("adapter_sha256", "store"):
        if name in card:
            yield name.replace("_", " "), card[name]


def _ties(both: Mapping[str, Any]) -> str:
    if not both["queries"]:
        return "none"
    low, high = both["pessimistic"]["R@1"], both["optimistic"]["R@1"]
    return f"{both['queries']} queries, R@1 {low:.1f} to {high:.1f} however they are broken"


def _commit(provenance: Mapping[str, Any]) -> str:
    commit = provenance.get("commit") or "unknown"
    return f"{commit}{', with changes not committed' if provenance.get('dirty') else ''}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "none"

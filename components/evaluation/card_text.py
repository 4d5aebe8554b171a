"""A scorecard as text: metrics with their intervals, then everything that they depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from components.evaluation.card import DIRECTIONS, WHOLE, Direction, Intervals, Metrics, ScorecardHead, Ties

SELECTED_ON_TEST = (
    "the epoch was chosen by these test figures: they are better than the adapter would do on videos not yet seen, and "
    "compare only with figures chosen the same way"
)


def warnings_of(card: ScorecardHead) -> list[str]:
    """What a reader must know before reading the metrics. Most cards have no warning."""
    # Epoch 0: nothing was trained, so nothing was chosen.
    on_test = card.selected_on == "test" and card.epoch != 0
    return [SELECTED_ON_TEST] if on_test and card.split == card.protocol.test_split else []


def describe(card: ScorecardHead) -> str:
    """A page of text for one card. It leaves out what the card lacks."""
    head = f"{card.task}, split {card.split}: {card.method}, seed {card.seed}"
    lines = [head, "=" * len(head), ""]
    for warning in warnings_of(card):
        lines += [f"WARNING: {warning}.", ""]
    for part, metrics in card.metrics.items():
        rule = card.part_rules.get(part)
        title = "all queries" if part == WHOLE else f"queries of the part {part!r}, against the whole gallery"
        title = title if rule is None else f"{part}: {rule}"
        lines += [*_metric_lines(title, metrics, card.intervals.get(part)), ""]
    lines += [*_binary_lines(card), *_moment_lines(card)]
    for name, block in card.rescored.items():
        title = f"RE-SCORED by {name}, which uses {block.uses}; not comparable with the figures above"
        lines += [*_metric_lines(title, block.metrics, None), f"  settings: {_pairs(block.settings)}", ""]
    facts = list(_facts(card))
    width = max(len(name) for name, _ in facts)
    lines += [f"{name.ljust(width)}  {text}" for name, text in facts]
    return "\n".join(lines) + "\n"


def _metric_lines(
    title: str, metrics: Mapping[Direction, Metrics], intervals: Mapping[Direction, Intervals] | None
) -> list[str]:
    names = list(next(iter(metrics.values())))
    cells = [["", *names]]
    for direction, text in DIRECTIONS.items():
        row = [text]
        for name in names:
            value = f"{metrics[direction][name]:.1f}"
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


def _binary_lines(card: ScorecardHead) -> list[str]:
    """The choice between a video and its reversal."""
    if not card.binary:
        return []
    lines = [f"forward or backward: {card.binary_rule}"]
    for direction, found in card.binary.items():
        low, high = found.interval
        counts = f"{found.queries} queries, {found.tied} of which tied"
        lines.append(f"  {DIRECTIONS[direction]}: accuracy {found.accuracy:.1f} [{low:.1f}, {high:.1f}], {counts}")
    return [*lines, ""]


def _moment_lines(card: ScorecardHead) -> list[str]:
    """Texts found within their videos."""
    if (found := card.moments) is None:
        return []
    lines = [f"moments: {found.rule}"]
    counts = f"{found.queries} queries of {found.videos} videos, {found.failed_videos} of which failed to decode"
    for name, value in found.metrics.items():
        low, high = found.intervals.get(name, (None, None))
        interval = "" if low is None else f" [{low:.1f}, {high:.1f}]"
        lines.append(f"  {name}: {value:.1f}{interval}; the whole video as the answer: {found.whole_video[name]:.1f}")
    return [*lines, f"  {counts}", ""]


def _facts(card: ScorecardHead) -> Iterator[tuple[str, str]]:
    protocol = card.protocol
    yield "data set", f"{protocol.benchmark}, {protocol.variant}; tested on split {protocol.test_split}"
    yield "captions", protocol.caption_rule
    yield "validation", protocol.validation
    counts = card.subset_queries[WHOLE]
    yield "queries", f"{counts['t2v']} captions (text to video), {counts['v2t']} videos (video to text)"
    yield "gallery", f"{card.gallery} videos, {card.failed_videos} of which failed to decode and count as wrong"
    yield "ranks", card.rank_rule
    yield "ties", "; ".join(f"{DIRECTIONS[key]}: {_ties(ties)}" for key, ties in card.ties[WHOLE].items())
    if card.interval_rule is not None:
        yield "intervals", card.interval_rule
    yield from _adapter_facts(card)


def _adapter_facts(card: ScorecardHead) -> Iterator[tuple[str, str]]:
    """What was evaluated, and on which frames."""
    if card.settings is not None:
        yield "method", f"{card.method}: {_pairs(card.settings)}"
    if card.parameters is not None:
        yield "parameters", f"{card.parameters.trainable:,} trainable"
    if card.backbone is not None:
        yield "backbone", _pairs(card.backbone.to_dict())
    if card.frames is not None:
        yield "input", f"{card.frames} frames, sampled {card.sampling}; {card.words} words"
    if card.decoding is not None:
        yield "decoding", _pairs(asdict(card.decoding))
    if card.precision is not None:
        yield "precision", card.precision
    if card.epoch is not None:
        yield "epoch", f"{card.epoch}, selected on {card.selected_on}"
    if card.provenance is not None:
        yield "commit", _commit(card.provenance)
    if card.adapter_sha256 is not None:
        yield "adapter sha256", card.adapter_sha256
    if card.store is not None:
        yield "store", card.store


def _ties(ties: Ties) -> str:
    if not ties.queries:
        return "none"
    low, high = ties.pessimistic["R@1"], ties.optimistic["R@1"]
    return f"{ties.queries} queries, R@1 {low:.1f} to {high:.1f} however they are broken"


def _commit(provenance: Mapping[str, Any]) -> str:
    commit = provenance.get("commit") or "unknown"
    return f"{commit}{', with changes not committed' if provenance.get('dirty') else ''}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "none"

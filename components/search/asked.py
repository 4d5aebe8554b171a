"""What the command line asks, and what of the answers it shows."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from components import storage
from components.errors import DataError, ReelTuneError
from components.search.clips import save_clip
from components.search.hits import Answer, Hit
from components.search.query import Searcher
from components.search.question import Kind, Part, Question, read_questions, weighted

# Arguments that each give a part of the question.
PARTS: tuple[tuple[str, Kind, int], ...] = (
    ("plus", "text", 1),
    ("minus", "text", -1),
    ("picture", "picture", 1),
    ("video", "video", 1),
    ("like", "like", 1),
)


def asked_on(args: argparse.Namespace) -> list[Question]:
    """The questions of a command line.

    Raises:
        ReelTuneError: Nothing is asked, or a file of questions is given with another question.
        DataError: The file of questions cannot be read.
    """
    text = " ".join(args.text)
    parts = [Part("text", text)] if args.text else []
    parts += [weighted(kind, given, sign) for name, kind, sign in PARTS for given in getattr(args, name)]
    if args.queries is None:
        return [Question(tuple(parts))]
    if parts:
        raise ReelTuneError(
            "two questions", where="command line", found=str(Question(tuple(parts))), expected="this or --queries"
        )
    return read_questions(Path(args.queries))


def clip_folder(name: str | None) -> Path | None:
    """The folder of ``--save-clips``, which exists afterwards. None if no clips are saved.

    Raises:
        DataError: It is a file, or under one.
    """
    if name is None:
        return None
    folder = Path(name).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError("not a folder", where=folder, cure="name another folder with --save-clips") from None
    return folder


def word_notes(searcher: Searcher, questions: Sequence[Question]) -> list[list[str]]:
    """For each question, a note about each text that does not fit."""
    return [
        [
            f"note: only the first {kept} of {total} words fit, and the rest is ignored"
            for part in question.parts
            if part.kind == "text"
            for kept, total in [searcher.kept_words(part.value)]
            if kept < total
        ]
        for question in questions
    ]


def shown(answer: Answer, notes: Sequence[str], everything: bool, root: Path, folder: Path | None) -> Answer:
    """An answer as it is printed: without hits below the cut-off, with notes, and with clips in ``folder``.

    Args:
        answer: The answer.
        notes: Notes that come first.
        everything: Whether hits below the cut-off are shown too.
        root: The folder that the films' paths start from.
        folder: Where clips go, None to save none.
    """
    lines = [*notes, *answer.notes]
    hits = [hit for hit in answer.hits if everything or not hit.below_cutoff]
    left_out = len(answer.hits) - len(hits)
    if left_out:
        lines.append(f"note: {left_out} of {len(answer.hits)} answers are below the cut-off; --all shows them")
    if folder is None:
        return replace(answer, hits=hits, notes=lines)
    clips = [_clip(hit, root, folder, lines) for hit in hits]
    return replace(answer, hits=hits, notes=lines, clips=clips)


def _clip(hit: Hit, root: Path, folder: Path, lines: list[str]) -> str | None:
    """Saves a hit's clip, adds a line about it, and returns its path. A film that cannot be copied costs its clip."""
    try:
        clip = save_clip(storage.resolve(root, hit.uri), (hit.start_seconds, hit.end_seconds), folder, _name(hit))
    except DataError as error:
        lines.append(f"clip {hit.rank}: {error}")
        return None
    early = hit.start_seconds - clip.start_seconds
    lines.append(
        f"clip {hit.rank}: {clip.path} starts at {clip.start_seconds:.3f} s of the film"
        + (f", at the key frame {early:.3f} s before the answer" if early > 0 else "")
        + f", and ends at {clip.end_seconds:.3f} s"
    )
    return str(clip.path)


def _name(hit: Hit) -> str:
    return f"{hit.rank:02d}-{hit.window_of or hit.video_id}"

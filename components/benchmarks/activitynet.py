"""ActivityNet Captions as paragraph-to-video retrieval (Krishna et al., ICCV 2017; protocol: Zhang et al., ECCV 2018).

``train.json`` and ``val_1.json``: ``{"v_<id>": {"duration", "timestamps": [[start, end], ...], "sentences": [...]}}``.
``train_ids.json`` and ``val_ids.json`` list the keys. val_1 is the test split. The only caption of a video is all its
sentences, joined by a space. The video is the whole file. Each sentence with its time stamps is also a moment of the
video. Listed ids without captions are left out, as in other implementations.
Videos: ``videos/<id>.mp4`` or ``videos/v_<id>.mp4``. Ids in the manifest have no ``v_``.

Validation uses ``val.json`` (in the same form) if that file exists, else a fixed fraction of the training videos.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Published, Reader
from components.benchmarks.parse import name_of
from components.errors import DataError
from components.manifest import Manifest, Protocol, first_few
from components.video import Moment, Video

PREFIX = "v_"
VALIDATION = "val.json"

# The ids have no typical form, so these are some ids of val_1, far from each other.
LANDMARKS = (
    "uqiMw7tQ1Cc|tyjUDi3uLd0|AeefhelpxGA|vKC23-I4pBc|M_E1i4S8Vp0|JE0xYYOp5_s|YjE1by2PX08|VcEW9F8TyqU|iA2Q4t-o58w"
)
PUBLISHED = Published(
    ids=re.compile(LANDMARKS),
    videos={"train": 10009, "test": 4917},
    captions={"test": 4917},
)


@dataclass(frozen=True)
class Entry:
    """The texts of one video.

    Args:
        paragraph: All sentences, joined. Empty if there is no sentence.
        moments: The sentences with their spans.
        unplaced: How many sentences have no span.
    """

    paragraph: str
    moments: tuple[Moment, ...] = ()
    unplaced: int = 0


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder in the format of ActivityNet Captions.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: ``val_share`` is the fraction of the training videos for validation if there is no validation file
            (default 0.05).

    Raises:
        ConfigError: An option is unknown.
        DataError: A file is missing or damaged, captions belong to an unlisted video, or a video has no sentence.
    """
    files.check_options(task, options, ("val_share",))
    notes: list[str] = []
    train = _entries(folder, "train.json", "train_ids.json", notes)
    test = _entries(folder, "val_1.json", "val_ids.json", notes)
    if storage.exists(storage.join(folder, VALIDATION)):
        val, validation = _entries(folder, VALIDATION, None, notes), VALIDATION
    else:
        share = files.val_share(task, options)
        names = files.held_out(train, share)
        val = {name: entry for name, entry in train.items() if name in names}
        train = {name: entry for name, entry in train.items() if name not in names}
        validation = f"{share:g} of the training videos, lowest SHA-256 of the id"
    found = files.video_files(folder)
    subsets = files.read_subsets(folder, {*train, *val, *test}, PREFIX)
    videos = tuple(
        Video(
            name,
            files.uri_of(folder, found, name, PREFIX + name),
            split,
            (entry.paragraph,),
            subsets=subsets.get(name, ()),
            moments=entry.moments,
        )
        for split, entries in (("train", train), ("val", val), ("test", test))
        for name, entry in entries.items()
    )
    protocol = Protocol(
        benchmark="activitynet",
        variant="train / val_1",
        caption_rule="sentences of a video joined to one paragraph",
        validation=validation,
    )
    return Manifest(task, protocol, videos, tuple(notes))


READER = Reader(
    read=read,
    files=lambda options: (
        *(AnnotationFile((name,)) for name in ("train.json", "train_ids.json", "val_1.json", "val_ids.json")),
        AnnotationFile((VALIDATION,), needed=False),
    ),
    published=lambda options: PUBLISHED,
)


def _entries(folder: str, captions_file: str, ids_file: str | None, notes: list[str]) -> dict[str, Entry]:
    """The texts of each video. What is left out is added to ``notes``."""
    where = storage.join(folder, captions_file)
    captions = files.read_json(where, dict)
    for key in captions:
        files.check_id(where, key)
    names = list(captions)
    if ids_file is not None:
        listed_at = storage.join(folder, ids_file)
        listed = [name_of(listed_at, name) for name in files.read_json(listed_at, list)]
        if unlisted := sorted(set(captions) - set(listed)):
            raise DataError(
                "captions of videos without an entry",
                where=where,
                found=first_few(unlisted),
                expected=f"ids listed in {ids_file}",
            )
        names = [n for n in files.checked_ids(listed_at, enumerate(listed, 1)) if n in captions]
        if dropped := len(listed) - len(names):
            notes.append(f"{dropped} of {len(listed)} ids of {ids_file} have no captions and are left out")
    if foreign := [name for name in names if not name.startswith(PREFIX)]:
        raise DataError("video key without v_", where=where, found=first_few(foreign), expected="v_<id>")
    entries = {name.removeprefix(PREFIX): _entry(f"{where} {name}", captions[name]) for name in names}
    if empty := [name for name, entry in entries.items() if not entry.paragraph]:
        raise DataError("videos without a sentence", where=where, found=first_few(empty), expected="a list 'sentences'")
    if unplaced := {name: entry.unplaced for name, entry in entries.items() if entry.unplaced}:
        count, some = sum(unplaced.values()), first_few(sorted(unplaced))
        notes.append(
            f"{count} sentences of {captions_file} have no time stamps that end after they start, so they are captions "
            f"and no moments: videos {some}"
        )
    return entries


def _entry(where: str, entry: object) -> Entry:
    """Joins the sentences by one space each. Some published sentences begin with a space."""
    sentences = entry.get("sentences") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(sentences, list):
        return Entry("")
    if wrong := [sentence for sentence in sentences if not isinstance(sentence, str)]:
        raise DataError("sentence is not a text", where=where, found=wrong[0], expected="a list of texts")
    texts = [" ".join(sentence.split()) for sentence in sentences]
    if "timestamps" not in entry:
        return Entry(" ".join(filter(None, texts)))
    stamps = entry["timestamps"]
    paired = stamps if isinstance(stamps, list) and len(stamps) == len(texts) else [None] * len(texts)
    placed = [(text, _span(stamp)) for text, stamp in zip(texts, paired, strict=True) if text]
    moments = tuple(Moment(text, (span,)) for text, span in placed if span is not None)
    return Entry(" ".join(text for text, _ in placed), moments, len(placed) - len(moments))


def _span(stamp: object) -> tuple[float, float] | None:
    """A start and a later end in seconds. A few published time stamps have no length or run backwards."""
    pair = stamp if isinstance(stamp, list) else []
    numbers = [float(n) for n in pair if isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < 1e9]
    if len(pair) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
        return None
    return numbers[0], numbers[1]

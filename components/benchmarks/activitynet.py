"""ActivityNet Captions as paragraph-to-video retrieval (Krishna et al., ICCV 2017; protocol: Zhang et al., ECCV 2018).

``train.json`` and ``val_1.json``: ``{"v_<id>": {"duration", "timestamps": [[start, end], ...], "sentences": [...]}}``.
``train_ids.json`` and ``val_ids.json`` list the keys. val_1 is the test split. The only text of a video is all its
sentences, joined by a space. The video is the whole file, so the time stamps are not used. Listed ids without captions
are left out, as in other implementations.
Videos: ``videos/<id>.mp4`` or ``videos/v_<id>.mp4``. Ids in the manifest have no ``v_``.

Validation uses ``val.json`` (in the same form) if that file exists, else a fixed fraction of the training videos.
"""

from __future__ import annotations

import re

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Published, Reader
from components.benchmarks.parse import name_of
from components.errors import DataError
from components.manifest import Manifest, Protocol, Video, first_few

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
    train = _paragraphs(folder, "train.json", "train_ids.json", notes)
    test = _paragraphs(folder, "val_1.json", "val_ids.json", notes)
    if storage.exists(storage.join(folder, VALIDATION)):
        val, validation = _paragraphs(folder, VALIDATION, None, notes), VALIDATION
    else:
        share = files.val_share(task, options)
        names = files.held_out(train, share)
        val = {name: text for name, text in train.items() if name in names}
        train = {name: text for name, text in train.items() if name not in names}
        validation = f"{share:g} of the training videos, lowest SHA-256 of the id"
    found = files.video_files(folder)
    subsets = files.read_subsets(folder, {*train, *val, *test}, PREFIX)
    videos = tuple(
        Video(name, files.uri_of(folder, found, name, PREFIX + name), split, (text,), subsets=subsets.get(name, ()))
        for split, texts in (("train", train), ("val", val), ("test", test))
        for name, text in texts.items()
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


def _paragraphs(folder: str, captions_file: str, ids_file: str | None, notes: list[str]) -> dict[str, str]:
    """The paragraph of each video. What is left out is added to ``notes``."""
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
    paragraphs = {name.removeprefix(PREFIX): _paragraph(f"{where} {name}", captions[name]) for name in names}
    if empty := [name for name, text in paragraphs.items() if not text]:
        raise DataError("videos without a sentence", where=where, found=first_few(empty), expected="a list 'sentences'")
    return paragraphs


def _paragraph(where: str, entry: object) -> str:
    """Joins the sentences by one space each. Some published sentences begin with a space."""
    sentences = entry.get("sentences") if isinstance(entry, dict) else None
    if not isinstance(sentences, list):
        return ""
    if wrong := [sentence for sentence in sentences if not isinstance(sentence, str)]:
        raise DataError("sentence is not a text", where=where, found=wrong[0], expected="a list of texts")
    return " ".join(text for sentence in sentences if (text := " ".join(sentence.split())))

"""Captions in several languages: the option that names them, and how they go into a manifest."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from components import storage
from components.benchmarks.interface import Options
from components.benchmarks.parse import name_of, parse_json, text_of
from components.errors import ConfigError, DataError

FORM = "{id: text or [texts]}, or [{'video_id', 'caption'}]"
CODE = re.compile(r"[a-z]{2,3}")


def languages(task: str, options: Options, known: Collection[str] | None = None) -> tuple[str, ...]:
    """The option ``languages``: codes such as ``en`` with commas between them. English alone if it is not given.

    Args:
        task: The name of the task.
        options: The task's options.
        known: The languages that the benchmark has, or None for any.

    Raises:
        ConfigError: There is no code, one occurs twice, or the benchmark does not have it.
    """
    given = options.get("languages", "en")
    codes = [code.strip() for code in given.split(",")] if isinstance(given, str) else []
    wrong = [code for code in codes if not CODE.fullmatch(code) or (known is not None and code not in known)]
    if not codes or wrong or len(set(codes)) < len(codes):
        raise ConfigError(
            "not a list of languages",
            where=f"params.yaml tasks.{task}.options.languages",
            found=given,
            expected="some of " + ", ".join(known) if known is not None else "codes such as en, de, zh, each once",
            cure='write them with commas between them: "en, zh"',
        )
    return tuple(codes)


def joined(texts: Mapping[str, Collection[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The captions of a video and the language of each, from the captions by language.

    The second tuple is empty if there is one language: then nothing is reported by language.
    """
    captions = tuple(caption for some in texts.values() for caption in some)
    if len(texts) < 2:
        return captions, ()
    return captions, tuple(language for language, some in texts.items() for _ in some)


def counted(rule: str, spoken: Collection[str]) -> str:
    """A caption rule with its languages, which are left out if English is the only one."""
    return rule if tuple(spoken) == ("en",) else f"{rule}; languages: {', '.join(spoken)}"


def read_captions(where: str) -> dict[str, list[str]]:
    """Reads the captions in one language: a mapping of ids to a text or a list of texts, or rows with both.

    The rows are those of MSR-VTT: ``[{"video_id", "caption"}]``, also as ``sentences`` of a mapping.

    Raises:
        DataError: The file is missing, damaged or in another form.
    """
    content = parse_json(storage.read_text(where), where)
    if isinstance(content, dict) and isinstance(content.get("sentences"), list):
        content = content["sentences"]
    captions: dict[str, list[str]] = {}
    if isinstance(content, dict):
        for name, texts in content.items():
            some = texts if isinstance(texts, list) and texts else [texts]
            captions[name] = [text_of(f"{where} {name}", text) for text in some]
        return captions
    if not isinstance(content, list):
        raise DataError("not captions", where=where, found=content, expected=FORM)
    for number, row in enumerate(content, 1):
        place = f"{where} row {number}"
        if not isinstance(row, dict) or not {"video_id", "caption"} <= set(row):
            raise DataError("not captions", where=place, found=row, expected=FORM)
        captions.setdefault(name_of(place, row["video_id"]), []).append(text_of(place, row["caption"]))
    return captions

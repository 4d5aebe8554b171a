"""Captions of MSR-VTT in several languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.benchmarks import msrvtt
from components.errors import ConfigError, DataError
from components.manifest import Manifest

TRAIN, TEST = [f"video{n}" for n in range(4)], [f"video{n}" for n in range(8000, 8003)]
# The nine languages of the published translation.
NINE = ("en", "de", "fr", "cs", "es", "ru", "vi", "sw", "zh")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ids = [*TRAIN, *TEST]
    sentences = [{"video_id": name, "caption": f"{name} en {k}"} for name in ids for k in range(2)]
    content = {"videos": [{"video_id": name, "split": "test" if name in TEST else "train"} for name in ids]}
    content["videos"][3]["split"] = "validate"
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps({**content, "sentences": sentences}))
    (tmp_path / "MSRVTT_train.9k.csv").write_text("video_id\n" + "\n".join(TRAIN))
    lines = [f"ret{n},msr{n},{name},{name} en" for n, name in enumerate(TEST)]
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\n" + "\n".join(lines))
    return tmp_path


def write(folder: Path, code: str, content: object) -> None:
    (folder / f"captions_{code}.json").write_text(json.dumps(content))


def read(folder: Path, **options: object) -> Manifest:
    manifest = msrvtt.read("small", str(folder), {"val_share": 0.25, **options})
    manifest.check()
    return manifest


def test_each_of_nine_languages_has_one_query_per_test_video(folder: Path) -> None:
    for code in NINE[1:]:
        write(folder, code, {name: f"{name} {code}" for name in TEST})
    manifest = read(folder, languages=", ".join(NINE))
    for video in manifest.split("test"):
        assert video.languages == NINE
        assert video.captions == tuple(f"{video.video_id} {code}" for code in NINE)
    assert {video.languages for video in manifest.split("train")} == {("en", "en")}
    assert manifest.protocol.caption_rule == f"one caption per test video; languages: {', '.join(NINE)}"
    assert Manifest.from_table(manifest.to_table()) == manifest


def test_english_alone_is_what_it_was(folder: Path) -> None:
    options = {"val_share": 0.25}
    plain, named = read(folder), read(folder, languages="en")
    assert plain == named
    assert plain.fingerprint() == named.fingerprint()
    assert {video.languages for video in plain.videos} == {()}
    assert "languages" not in plain.to_table().schema.names
    assert msrvtt.READER.published(options) == msrvtt.READER.published({**options, "languages": "en"})


@pytest.mark.parametrize(
    "form",
    [
        lambda pairs: {name: [text] for name, text in pairs},
        lambda pairs: [{"video_id": name, "caption": f" {text}\n"} for name, text in pairs],
        lambda pairs: {"videos": [], "sentences": [{"video_id": name, "caption": text} for name, text in pairs]},
    ],
)
def test_a_file_of_captions_may_have_other_forms(folder: Path, form: object) -> None:
    assert callable(form)
    write(folder, "de", form([(name, f"{name} de") for name in [*TRAIN, *TEST]]))
    manifest = read(folder, languages="de,en")
    first = manifest.split("test")[0]
    assert (first.captions, first.languages) == (("video8000 de", "video8000 en"), ("de", "en"))
    assert {video.languages for video in manifest.split("train")} == {("de", "en", "en")}
    assert {video.languages for video in manifest.split("val")} == {("de", "en")}
    only = read(folder, languages="de")
    assert {(len(v.captions), v.languages) for v in only.videos} == {(1, ())}


def test_the_full_split_takes_all_captions_of_a_language(folder: Path) -> None:
    write(folder, "de", {name: [f"{name} de {k}" for k in range(3)] for name in TEST})
    manifest = msrvtt.read("small", str(folder), {"split": "full", "languages": "en,de"})
    assert {video.languages for video in manifest.split("test")} == {("en",) * 2 + ("de",) * 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, r"captions_de\.json: not captions; found 3; expected \{id: text or \[texts\]\}"),
        ([{"id": 1}], r"captions_de\.json row 1: not captions; found \{'id': 1\}"),
        ({"video8000": 3}, r"captions_de\.json video8000: empty caption; found 3"),
        ({"video8000": "x"}, r"test videos without a caption; found 'video8001, video8002'; .*take de out of the opt"),
        ({name: ["a", "b"] for name in TEST}, r"test videos with several captions; .*or set the option split to full"),
    ],
)
def test_damaged_files_are_named(folder: Path, content: object, message: str) -> None:
    write(folder, "de", content)
    with pytest.raises(DataError, match=message):
        read(folder, languages="en,de")


def test_missing_files_and_wrong_codes_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"captions_de\.json: no such file"):
        read(folder, languages="en,de")
    with pytest.raises(ConfigError, match=r"options\.languages: not a list of languages; found 'german'; .*en, de, zh"):
        read(folder, languages="german")
    write(folder, "de", dict.fromkeys(TEST, "x"))
    with pytest.raises(DataError, match="without a caption"):
        read(folder, languages="de")
    assert [f.names for f in msrvtt.READER.files({"languages": "en,de"})][-1] == ("captions_de.json",)

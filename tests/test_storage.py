from __future__ import annotations

import os
from pathlib import Path

import pytest

from components import storage
from components.errors import DataError


def test_paths_under_the_root_lose_it_and_get_it_back(tmp_path: Path) -> None:
    inside = storage.resolve(tmp_path, "data/videos/a b.mp4")
    assert inside == str(tmp_path / "data/videos/a b.mp4")
    assert storage.relative(tmp_path, inside) == "data/videos/a b.mp4"
    for elsewhere in ("/elsewhere/a.mp4", "s3://bucket/a.mp4"):
        assert storage.resolve(tmp_path, elsewhere) == elsewhere
        assert storage.relative(tmp_path, elsewhere) == elsewhere


def test_join_keeps_uris_uris() -> None:
    assert storage.join("s3://bucket/folder/", "a", "b") == "s3://bucket/folder/a/b"
    assert storage.join("/folder", "a", "b") == "/folder/a/b"


def test_files_are_read_through_a_uri_too(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b").write_bytes(b"12")
    (tmp_path / "a").write_bytes("\ufeffä".encode())
    for folder in (str(tmp_path), tmp_path.as_uri()):
        assert storage.list_files(folder) == ["a", "b"]
        assert storage.read_text(storage.join(folder, "a")) == "ä"
        assert storage.size(storage.join(folder, "b")) == 2
        assert not storage.exists(storage.join(folder, "c"))
        assert storage.list_files(storage.join(folder, "none")) == []


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        storage.read_bytes(tmp_path / "none.csv")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="not UTF-8 at byte 3"):
        storage.read_text(tmp_path / "latin")
    with pytest.raises(DataError, match="not a usable URI"):
        storage.read_bytes("nonsense://bucket/key")


def test_atomic_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    storage.write_bytes(target, b"old")
    with pytest.raises(RuntimeError, match="stop"):
        stop_half_way(target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def stop_half_way(target: Path) -> None:
    with storage.atomic_file(target) as aside:
        aside.write_bytes(b"half")
        assert target.read_bytes() == b"old"
        raise RuntimeError("stop")


def test_published_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "outputs" / "store"
    source.mkdir()
    (source / "a").write_bytes(b"1")
    (source / ".half.tmp").write_bytes(b"?")
    target.mkdir(parents=True)
    (target / "stale").write_bytes(b"0")
    left_over = target.parent / ".store.new-1"
    left_over.mkdir()
    storage.publish_folder(source, target)
    assert {path.name for path in target.iterdir()} == {"a"}
    assert [path.name for path in target.parent.iterdir()] == ["store"]
    storage.write_bytes(source / "a", b"2")  # replaced and not changed, so that the published file stays
    assert (target / "a").read_bytes() == b"1"
    storage.publish_folder(source, target)
    assert (target / "a").read_bytes() == b"2"


def test_what_leads_to_a_bucket_stays_at_the_end_of_a_uri() -> None:
    folder = "s3://bucket/folder?endpoint_override=127.0.0.1:9&scheme=http"
    file = storage.join(folder, "a #1?.mp4")
    assert file == "s3://bucket/folder/a%20%231%3F.mp4?endpoint_override=127.0.0.1:9&scheme=http"
    assert storage.split(file) == (folder, "a #1?.mp4")
    assert storage.plain(file) == "s3://bucket/folder/a #1?.mp4"
    assert storage.filesystem(file)[1] == "bucket/folder/a #1?.mp4"
    assert storage.split("/folder/a?b.mp4") == ("/folder", "a?b.mp4")
    assert storage.plain("/folder/a?b.mp4") == "/folder/a?b.mp4"


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(DataError, match=r"s3://\*\*\*@bucket/key: credentials in a URI") as caught:
        storage.size("s3://name:secret@bucket/key")
    assert "secret" not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")


@pytest.mark.timeout(60)
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "endless", "folder"):
        with pytest.raises(DataError, match=f"{name}: not a regular file"):
            storage.read_bytes(tmp_path / name)
    with pytest.raises(DataError, match="loop"):
        storage.read_bytes(tmp_path / "loop")
    (tmp_path / "link").symlink_to(tmp_path / "text")
    (tmp_path / "text").write_text("text")
    assert storage.read_bytes(tmp_path / "link") == b"text"

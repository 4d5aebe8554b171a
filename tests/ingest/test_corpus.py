"""Every file of a hostile corpus is decoded or fails with one reason, and costs no process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus import DECODED, FAMILIES, Case, make_corpus

from components.errors import DataError
from components.frames import schema
from components.ingest.decoders import DECODERS
from components.ingest.isolation import DecodeProcess, Outcome, Recipe, held_mib
from components.ingest.records import Settings, Shard
from components.ingest.shards import make_shard
from components.video import Video


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def recipe(decoder: str) -> Recipe:
    return Recipe(decoder, "uniform", 12, 48, 95)


@pytest.fixture(scope="module")
def by_auto(cases: list[Case]) -> Iterator[dict[Path, Outcome]]:
    with DecodeProcess(recipe(DECODERS.target("auto")), time_limit_seconds=60) as process:
        yield {case.path: process.decode(str(case.path), None, None) for case in cases}
        # The one that asks for more memory than the machine has is tried again in a new process.
        assert process.starts == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_every_file_ends_as_its_family_does(family: str, cases: list[Case], by_auto: dict[Path, Outcome]) -> None:
    mine = [case for case in cases if case.family == family]
    assert mine
    for case in mine:
        outcome = by_auto[case.path]
        assert outcome.reason is None or outcome.reason in schema.REASONS
        assert (outcome.reason or DECODED) in case.expected, (case.path.name, outcome.reason, outcome.detail)


def test_every_file_is_a_row_of_the_ledger(cases: list[Case], tmp_path: Path) -> None:
    videos = tuple(Video(f"v{k}", str(case.path), "test", ("c",)) for k, case in enumerate(cases))
    settings = Settings(recipe(DECODERS.target("auto")), "auto", len(cases), 8, 60.0, 4096)
    with settings.process() as process:
        done = make_shard(Shard(0, videos), tmp_path, tmp_path, settings, process)
    table = pa.Table.from_pylist([asdict(row) for row in done.ledger], schema=schema.LEDGER_SCHEMA)
    assert table["video_id"].to_pylist() == [video.video_id for video in videos]
    for row in table.to_pylist():
        failed = row["status"] == schema.FAILED
        assert (row["reason"] in schema.REASONS) == failed
        assert row["decoder"] == "auto" if failed else row["decoder"].split()[0] in ("decord", "decord2", "pyav")
        assert (row["corrupt_frames"] is None) == (failed or row["decoder"].startswith("decord"))
    stored = pq.read_table(tmp_path / schema.shard_name(0)).to_pylist()
    decoded = [row for row in table.to_pylist() if row["status"] == schema.DECODED]
    keys = ("video_id", "decoder", "corrupt_frames")
    assert [[row[key] for key in keys] for row in stored] == [[row[key] for key in keys] for row in decoded]


def test_damage_in_the_pictures_is_flagged_by_the_decoder_that_can_tell(cases: list[Case]) -> None:
    with DecodeProcess(recipe(DECODERS.target("pyav")), time_limit_seconds=60) as process:
        found = {
            case.path.name.rpartition("-")[0]: process.decode(str(case.path), None, None)
            for case in cases
            if case.path.name.startswith(("pictures-1-0", "pictures-30-14", "pictures-1000-8", "b-frames"))
        }
    assert found["b"].row["corrupt_frames"] == 0
    assert found["pictures-30"].row["corrupt_frames"] > 0
    assert (found["pictures-1000"].reason, found["pictures-1000"].detail) == ("damaged", "12 of the 12 frames")


def test_named_decoders_end_every_file_too(cases: list[Case]) -> None:
    for name in ("pyav", "decord"):
        with DecodeProcess(recipe(DECODERS.target(name)), time_limit_seconds=5) as process:
            outcomes = {case.path.name: process.decode(str(case.path), None, None).reason for case in cases}
        assert set(outcomes.values()) - {None} <= set(schema.REASONS)
        assert not {"timeout", "crashed"} & set(outcomes.values())
        # decord would never return.
        assert outcomes["hidden-start.mp4"] == (None if name == "pyav" else "unsupported")


def test_a_video_that_eats_memory_costs_itself(tmp_path: Path, cases: list[Case]) -> None:
    content = cases[0].path.read_bytes()
    # Mapping 64 GiB costs nothing. 300 MiB that are kept would burden the next video.
    expected = {
        "map": (None, "", 1),
        "leak1": ("out_of_memory", "512 MiB", 2),  # tried twice
        "good1": (None, "", 3),
        "leak2": ("out_of_memory", "512 MiB", 4),
        "keep1": (None, "", 5),  # and its process ends
        "keep2": (None, "", 6),
        "good2": (None, "", 7),
    }
    with DecodeProcess(recipe("bad_decoders:decode"), time_limit_seconds=60, memory_limit_mib=512) as process:
        for name, (reason, detail, starts) in expected.items():
            (tmp_path / f"{name}.mp4").write_bytes(content)
            outcome = process.decode(str(tmp_path / f"{name}.mp4"), None, None)
            assert (name, outcome.reason, outcome.detail, process.starts) == (name, reason, detail, starts)
        assert process._child is not None
        assert 10 < held_mib(process._child.pid) < 256


def test_a_limit_below_the_process_itself_is_one_error() -> None:
    with (
        DecodeProcess(recipe(DECODERS.target("auto")), time_limit_seconds=60, memory_limit_mib=20) as process,
        pytest.raises(
            DataError, match=r"memory_limit_mib is less than .* needs without a video; found 20; expected more than"
        ),
    ):
        process.decode("any", None, None)

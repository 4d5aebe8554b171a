"""The plan of an ingest: its sums, and the limit that it names."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_files import REPOSITORY

from components.errors import ConfigError
from components.ingest.capacity import (
    KIB_PER_FRAME,
    MS_PER_VIDEO,
    SOURCES,
    CapacityPlan,
    Source,
    decode_ms,
    plan,
    windows_of,
)

SOURCE = Source(
    ms_per_second=10.0, ms_per_frame=2.0, packets_ms_per_second=0.5, longest_gap_seconds=4.0, mbit_per_second=8.0
)
WIDE = {"network_gbit": 1e9, "write_mb": 1e12}


def made(videos: int = 1000, cores: int = 4, **limits: float) -> CapacityPlan:
    rest = {"seconds": 20.0, "frames": 12, "quality": 95, "shard_videos": 128}
    return plan(videos, SOURCE, cores=cores, **rest, **{**WIDE, **limits})  # type: ignore[arg-type]


def test_a_video_costs_its_decoding_its_frames_and_what_comes_with_it() -> None:
    found = made()
    each = 20 * 10 + 12 * 2 + 20 * 0.5 + MS_PER_VIDEO
    assert found.core_hours == pytest.approx(1000 * each / 1000 / 3600)
    assert found.bound == "processors"
    assert found.read_bytes == pytest.approx(1000 * 20 * 1e6)
    assert found.store_bytes == pytest.approx(1000 * 12 * KIB_PER_FRAME[95] * 1024)
    assert found.shards == 8
    # What the cores read at full speed.
    assert found.network_gbit == pytest.approx(4 / (each / 1000) * 20 * 8e6 / 1e9)


def test_windows_are_rows_with_frames_of_the_same_pass() -> None:
    plain, cut = made(), made(windows=7)
    assert (plain.rows, cut.rows) == (1000, 8000)
    assert (cut.shards, cut.read_bytes) == (plain.shards, plain.read_bytes)
    assert cut.store_bytes == 8 * plain.store_bytes
    # The whole video is decoded once at most, and each frame is resized and stored.
    assert cut.core_hours - plain.core_hours == pytest.approx(1000 * 7 * 12 * 2 / 1000 / 3600)


def test_the_windows_are_those_that_ingest_makes() -> None:
    assert (windows_of(3600, 10, 0.5), windows_of(25, 10, 0), windows_of(10.9, 10, 0)) == (719, 3, 0)
    with pytest.raises(ConfigError, match=r"(?s)--windows.*overlap"):
        windows_of(3600, 10, 1.5)
    with pytest.raises(ConfigError, match=r"--windows: more than 20,000 windows: .*; found 0\.5"):
        windows_of(3600, 0.5, 0.9)


def test_the_script_says_how_many_windows_it_counts() -> None:
    command = [sys.executable, str(REPOSITORY / "pipelines" / "plan.py"), "--videos", "1", "--cores", "1"]
    asked = ("--kind", "1080p", "--seconds", "3600", "--windows", "10", "--overlap", "0.5")
    said = subprocess.run([*command, *asked], capture_output=True, text=True, check=True).stdout
    assert said.startswith("719 windows of each video\n")
    assert f"{(719 + 1) * 12 * 25.6 / 2**20:.1f} GiB" in said


def test_cores_without_a_shard_do_not_help() -> None:
    assert made(cores=8).hours == made(cores=800).hours < made(cores=4).hours


def test_long_videos_cost_groups_of_pictures_not_their_length() -> None:
    assert decode_ms(SOURCE, 20, 12) == 200
    assert decode_ms(SOURCE, 3600, 12) == 12 * 2 * 10


def test_the_narrowest_limit_is_named() -> None:
    assert made(network_gbit=1e-6).bound == "network"
    assert made(write_mb=1e-6).bound == "storage"
    assert made(network_gbit=1e-3).hours == pytest.approx(1000 * 20 * 8e6 / 1e6 / 3600)


@given(st.integers(1, 10**9), st.integers(1, 10**5))
def test_more_cores_never_take_longer_and_more_videos_never_less(videos: int, cores: int) -> None:
    base = made(videos, cores, network_gbit=10, write_mb=500)
    assert made(videos, 2 * cores, network_gbit=10, write_mb=500).hours <= base.hours
    assert made(2 * videos, cores, network_gbit=10, write_mb=500).hours >= base.hours
    assert all(value > 0 for value in dataclasses.astuple(base) if not isinstance(value, str))


def test_sources_are_complete() -> None:
    assert all(min(dataclasses.astuple(source)) >= 0 for source in SOURCES.values())

"""Videos of which little can be seen are failed rows, and videos with a little damage are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from counted import with_noise, write_counted
from numpy.typing import NDArray

from components.frames.jpeg import decode_frames
from components.ingest.decoders import DECODERS
from components.ingest.isolation import DecodeProcess, Recipe

B_FRAMES = {"bf": "3", "preset": "fast", "g": "12"}
# As streaming services encrypt: headers stay readable, slices do not.
ENCRYPTED = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


def moving() -> Iterator[NDArray[np.uint8]]:
    """Yields 60 frames of a textured scene that moves."""
    scene = np.random.default_rng(0).integers(0, 256, (96, 400, 3)).astype(np.uint8)
    return (np.ascontiguousarray(scene[:, 3 * number : 3 * number + 160]) for number in range(60))


@pytest.fixture(scope="module")
def auto() -> Iterator[DecodeProcess]:
    with DecodeProcess(Recipe(DECODERS.target("auto"), "segment_center", 12, 48, 95), 60) as process:
        yield process


# PyAV decodes the first of these, and decord the other one if nothing is wrong.
@pytest.mark.parametrize(("options", "decoder"), [(B_FRAMES, "pyav"), ({}, "decord")])
def test_noise_in_all_pictures_fails_and_in_a_third_is_noted(
    auto: DecodeProcess, tmp_path: Path, options: dict[str, str], decoder: str
) -> None:
    plain = write_counted(tmp_path / "plain.mp4", options=options, pictures=moving())
    whole = auto.decode(str(plain), None, None)
    assert whole.row["decoder"].startswith(decoder)
    assert not whole.row["corrupt_frames"]

    grey = auto.decode(str(with_noise(plain, tmp_path / "grey.mp4")), None, None)
    assert (grey.reason, grey.detail) == ("damaged", "12 of the 12 frames")
    part = auto.decode(str(with_noise(plain, tmp_path / "part.mp4", share=0.3)), None, None)
    assert part.reason is None
    assert part.row["decoder"].startswith("pyav")  # decord would not tell
    assert 0 < part.row["corrupt_frames"] <= part.row["source_frames"] == 60
    assert np.array_equal(decode_frames(part.row["frames"][-1:]).shape, decode_frames(whole.row["frames"][-1:]).shape)


def test_an_encrypted_video_is_not_stored(auto: DecodeProcess, tmp_path: Path) -> None:
    for number in range(4):  # each with another initial vector, which decides what the decoder makes of it
        path = write_counted(tmp_path / f"drm{number}.mp4", pictures=moving(), muxer=ENCRYPTED)
        assert auto.decode(str(path), None, None).reason in ("damaged", "decode_error")


def test_a_damaged_key_frame_spoils_what_is_built_on_it(auto: DecodeProcess, tmp_path: Path) -> None:
    """Only the key frames are damaged and flagged. Every picture shows it."""
    one_group = write_counted(tmp_path / "long.mp4", options={"g": "60", "sc_threshold": "0"}, pictures=moving())
    outcome = auto.decode(str(with_noise(one_group, tmp_path / "key.mp4", share=1 / 60)), None, None)
    assert (outcome.reason, outcome.detail) == ("damaged", "12 of the 12 frames")
    groups = write_counted(tmp_path / "short.mp4", options={"g": "6", "sc_threshold": "0"}, pictures=moving())
    assert auto.decode(str(with_noise(groups, tmp_path / "one.mp4", share=1 / 60)), None, None).reason is None


def test_decord_alone_is_judged_by_a_look_at_some_groups(tmp_path: Path) -> None:
    plain = write_counted(tmp_path / "plain.mp4", pictures=moving())
    with DecodeProcess(Recipe(DECODERS.target("decord"), "uniform", 12, 48, 95), 60) as process:
        outcome = process.decode(str(with_noise(plain, tmp_path / "grey.mp4")), None, None)
        part = process.decode(str(with_noise(plain, tmp_path / "part.mp4", share=0.3)), None, None)
    assert (outcome.reason, outcome.detail) == ("damaged", "3 of 3 groups of pictures")
    assert part.reason is None

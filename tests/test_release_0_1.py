"""Files that release 0.1 made still load: an adapter and a frame store, kept as that release wrote them."""

from __future__ import annotations

from pathlib import Path

import tiny_world
import torch

from components.adapters.file import load_adapter
from components.backbones.load import load_backbone
from components.frames.jpeg import decode_frames
from components.frames.store import FrameStore

KEPT = Path(__file__).parent / "golden" / "release_0_1"

# The first four values of two videos' embeddings, printed by release 0.1.
EMBEDDED = [
    [-0.0669170543551445, -0.06714460998773575, 0.2708430290222168, 0.083574078977108],
    [-0.07034557312726974, -0.07642441987991333, 0.26921534538269043, 0.0783684104681015],
]


def test_an_adapter_of_release_0_1_embeds_as_it_did(tmp_path: Path) -> None:
    tiny_world.write_params(tmp_path)
    tiny_world.write_backbone(tmp_path)
    backbone = load_backbone(tiny_world.params(tmp_path).backbone, tmp_path)
    method = load_adapter(KEPT / "vop_p", backbone)
    assert (method.name, method.frames, method.words, method.temporal) == ("vop_p", 4, 16, True)
    side = method.spec.image_size
    frames = torch.randn(2, 4, 3, side, side, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[1, -1] = False
    with torch.no_grad():
        found = method.encode_video(frames, mask)[:, :4]
    assert torch.allclose(found, torch.tensor(EMBEDDED), atol=1e-5)


def test_a_frame_store_of_release_0_1_is_read() -> None:
    store = FrameStore(KEPT / "frames")
    assert store.fingerprint == "59f7c54fe535b2121719ab633dbe87dfa2b573826f4f7b13d0a0a3e159a6686e"
    assert [len(store.ids(split)) for split in ("train", "val", "test")] == [1, 1, 1]
    videos = list(store.read(store.ids("all")))
    assert [decode_frames(video.frames).shape for video in videos] == [(4, 48, 48, 3)] * 3
    assert {video.decoder.split()[0] for video in videos} <= {"decord", "pyav", "av"}

"""A few real steps of training the mini CLIP, a resumed run, and the weights in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.backbones import mini
from components.embedded import pretraining, vocabulary
from components.embedded.settings import PretrainSettings

ROOT = Path(__file__).resolve().parents[2]
SHORT = PretrainSettings(seed=0, steps=6, batch_size=32, lr=1e-3, weight_decay=0.05, warmup_steps=2, motion_share=0.3)


def test_the_vocabulary_is_clips_own_spelling(tmp_path: Path) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    vocabulary.write_bpe(tmp_path / "bpe.gz")
    assert (tmp_path / "bpe.gz").read_bytes() == mini.BPE_PATH.read_bytes()
    full, reduced = SimpleTokenizer(), mini.mini_tokenizer(64)
    words = vocabulary.all_words()
    assert [reduced.bpe(word) for word in words] == [full.bpe(word) for word in words]
    assert json.loads(mini.CONFIG_PATH.read_text())["text_cfg"]["vocab_size"] == reduced.vocab_size < 1000
    assert reduced.decode(reduced.encode("a zebra crosses")).strip() == "a zebra crosses"


def test_training_learns_and_resumes_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 3)
    threads = torch.get_num_threads()
    whole = pretraining.pretrain(SHORT, tmp_path / "a.pt", tmp_path / "a.safetensors", 1)

    class StopError(Exception):
        pass

    save = pretraining._save_state

    def stop(*args: object) -> None:
        save(*args)  # type: ignore[arg-type]
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "_save_state", stop)
        with pytest.raises(StopError):
            pretraining.pretrain(SHORT, tmp_path / "b.pt", tmp_path / "b.safetensors", 1)
    assert not (tmp_path / "b.safetensors").exists()
    resumed = pretraining.pretrain(SHORT, tmp_path / "b.pt", tmp_path / "b.safetensors", 1)
    torch.set_num_threads(threads)
    assert resumed["loss"] == whole["loss"] < 3.6  # ln(32) = 3.47 at chance
    one, other = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_weights_in_the_repository_know_their_stills() -> None:
    path = ROOT / "models" / "mini.safetensors"
    assert path.stat().st_size <= 8e6
    model = pretraining.new_model(0)
    model.load_state_dict(load_file(path))
    params = pretraining.evaluate(model, SHORT)
    recorded = json.loads((ROOT / "models" / "mini.json").read_text())
    assert params["t2i_R@1"] == pytest.approx(recorded["t2i_R@1"], abs=1.0)
    assert params["t2i_R@1"] > 40

"""The report of a tiny project: its files, its page, and that no model is loaded to make it."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import trained_world
from ruamel.yaml import YAML
from trained_world import TASK

from components.adapters.card import read_card
from components.adapters.file import load_adapter
from components.evaluation.card import read_ranks, read_scorecard
from components.fingerprint import code_of
from components.frames.store import FrameStore
from components.layout import Layout
from components.report import collect, page
from components.report.results import read_results
from components.search import index as indexes
from components.search.gallery import RankedCaption, choose, make_gallery, ranked_captions
from components.search.query import Searcher, shared_backbone
from components.search.records import Gallery, Pictures, Source, read_gallery

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, and an index of one of them."""
    root = tmp_path_factory.mktemp("reported")
    trained_world.write_trained(root, ("zero_shot", "mv_adapter"))
    path = root / "params.yaml"
    path.write_text(_run_block(path.read_text(encoding="utf-8")), encoding="utf-8")
    write_index(root, "test")
    page.write(root / "reports", content(root))
    return root


def _run_block(text: str) -> str:
    tree = YAML(typ="safe").load(text)
    tree["run"] = {"tasks": [TASK], "methods": ["zero_shot", "mv_adapter", "vop"], "seeds": [0]}
    stream = StringIO()
    YAML().dump(tree, stream)
    return stream.getvalue()


def write_index(root: Path, split: str) -> tuple[Gallery, Pictures] | None:
    """The index of mv_adapter, as the index stage makes it."""
    layout, params = Layout(root), trained_world.tiny_world.params(root)
    adapter, store = layout.adapter(TASK, "mv_adapter", 0), FrameStore(layout.frames(TASK))
    method = load_adapter(adapter, shared_backbone(params.backbone, root))
    made = indexes.build(method, store, split=split, adapter_sha256=read_card(adapter).sha256, batch_size=4)
    source = Source(version="1", method="mv_adapter", seed=0, split=split, store=store.fingerprint)
    gallery = make_gallery(Searcher(method, made), store, source, layout.scorecards(TASK, "mv_adapter", 0))
    indexes.write(made, layout.index(TASK), adapter, source, gallery)
    return gallery


def content(root: Path) -> page.Content:
    return collect.collect(root, trained_world.tiny_world.params(root))


def test_the_report_loads_no_model(world: Path) -> None:
    """The report is made and printed in a process without torch, CLIP and MLflow."""
    code = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "print('loaded', *sorted(set(sys.modules) & {'torch', 'open_clip', 'mlflow', 'ray'}))\n"
    )
    script = str(PROJECT / "pipelines" / "report.py")
    before = (world / "reports" / "index.html").read_bytes()
    for arguments in ([], ["--print"]):
        command = [sys.executable, "-c", code, script, "--root", str(world), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1].split() == ["loaded"]
    assert (world / "reports" / "index.html").read_bytes() == before


def test_no_code_of_a_model_decides_the_report() -> None:
    """An edit of backbones, methods or the search reruns the report only if it changes what they leave."""
    model = re.compile(
        r"components/(backbones|methods|frames|training|ingest)/|components/search/(query|index|gallery)"
    )
    files = [name for name in code_of("report").files if model.match(name)]
    # Cards name the backbone by its spec, which is data.
    assert files == ["components/backbones/__init__.py", "components/backbones/spec.py"]


def test_results_are_the_scorecards(world: Path) -> None:
    results = read_results(world / "reports" / "results.json")
    assert [(result.task, result.method, result.seed) for result in results] == [
        (TASK, "zero_shot", 0),
        (TASK, "mv_adapter", 0),
    ]
    for result in results:
        card = read_scorecard(Layout(world).scorecards(TASK, result.method, 0), "test")
        assert result.metrics == card.metrics
    assert results[0].trainable_parameters == 0 < results[1].trainable_parameters
    assert results == content(world).results


def test_curves_are_those_of_the_trainings(world: Path) -> None:
    rows = list(csv.DictReader((world / "reports" / "plots" / "curves.csv").read_text().splitlines()))
    found = [(row["epoch"], row["t2v_R@1"]) for row in rows if row["name"] == f"{TASK} mv_adapter-0"]
    assert found == [("1", "12.5"), ("2", "25.0")]


def test_a_report_without_validation_has_the_same_files(world: Path, tmp_path: Path) -> None:
    page.write(tmp_path, dataclasses.replace(content(world), curves={}))
    files = [sorted(path.name for path in folder.rglob("*.*")) for folder in (tmp_path, world / "reports")]
    assert files[0] == files[1]


class Links(html.parser.HTMLParser):
    """Collects what a page loads or runs."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for key, value in attrs if key in ("src", "href")]


def test_the_page_loads_nothing_from_elsewhere_and_needs_no_scripts(world: Path) -> None:
    links = Links()
    text = (world / "reports" / "index.html").read_text(encoding="utf-8")
    links.feed(text)
    assert "script" not in links.tags
    assert all(link.startswith(("data:image/", "#")) for link in links.loads)
    assert not re.search(r"url\(|@import", text)


def test_the_page_holds_tables_queries_and_the_plain_truth(world: Path) -> None:
    text = (world / "reports" / "index.html").read_text(encoding="utf-8")
    assert "cannot tell a clip from its reverse" in text
    assert "That is zero_shot here" in text
    assert "mv_adapter sees the order of frames" in text
    assert "Not evaluated yet: tiny/vop-0" in text
    assert f"{TASK}: late part of the test set" in text
    assert text.count('class="query"') == len(choose(_captions(world)))
    assert text.count("data:image/jpeg") > 30


def _captions(world: Path) -> list[RankedCaption]:
    return ranked_captions(Layout(world).scorecards(TASK, "mv_adapter", 0))


def test_shown_ranks_are_those_of_the_scorecards(world: Path) -> None:
    queries = content(world).tasks[TASK].queries
    assert queries
    for method in ("zero_shot", "mv_adapter"):
        rows = read_ranks(Layout(world).scorecards(TASK, method, 0), "test").to_pylist()
        ranks = {row["caption"]: row["rank"] for row in rows if row["direction"] == "t2v"}
        assert [query.ranks[f"{method}-0"] for query in queries] == [ranks[query.text] for query in queries]
    for query in queries:
        right = [video.hit.rank for video in [*query.best, query.right] if video is not None and video.is_right]
        assert right == [query.ranks["mv_adapter-0"]]


def test_the_gallery_is_what_a_search_finds(world: Path) -> None:
    layout, params = Layout(world), trained_world.tiny_world.params(world)
    gallery, pictures = read_gallery(layout.index(TASK))
    searcher = Searcher.from_folder(layout.index(TASK), world, params.backbone, top=100)
    videos = {video.video_id: video.frames for video in FrameStore(layout.frames(TASK)).read(list(pictures))}
    for query in gallery.queries:
        hits = searcher.search(query.text)
        assert [(hit.rank, hit.video_id, hit.score) for hit in query.best] == [
            (hit.rank, hit.video_id, hit.score) for hit in hits[: len(query.best)]
        ]
        right = next(hit for hit in hits if hit.video_id == query.video_id)
        assert (query.right is None) == (right.rank <= len(query.best))
    for video_id, strip in pictures.items():
        frames = videos[video_id]
        assert strip == [frames[0], frames[round((len(frames) - 1) / 2)], frames[-1]]


@pytest.mark.parametrize("change", ["split", "adapter", "store", "nothing"])
def test_only_a_test_split_with_its_scorecards_has_a_gallery(world: Path, tmp_path: Path, change: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(world, root)
    path = Layout(root).scorecards(TASK, "mv_adapter", 0) / "test.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    changes = {"adapter": {"adapter_sha256": "0" * 64}, "store": {"store": "0" * 64}}.get(change, {})
    path.write_text(json.dumps({**card, **changes}), encoding="utf-8")
    gallery = write_index(root, "val" if change == "split" else "all")
    assert (gallery is None) == (change != "nothing")
    task = content(root).tasks[TASK]
    assert (not task.queries) == (change != "nothing")
    assert ("no gallery; expected an index of the test split" in task.no_queries) == (change != "nothing")


def test_the_choice_has_hits_and_misses_inside_and_outside_the_parts() -> None:
    captions = [
        RankedCaption(f"v{n}", "c", 1.0 if n % 2 else 4.0, decoded=n < 36, subsets=("t",) * (n % 3 == 0))
        for n in range(40)
    ]
    chosen = choose(captions)
    kinds = [(bool(caption.subsets), caption.rank == 1) for caption in chosen]
    assert sorted(kinds) == sorted([(a, b) for a in (True, False) for b in (True, False)] * 2)
    assert all(caption.decoded for caption in chosen)
    assert chosen == choose(captions[::-1])


def test_captions_are_text_and_never_markup(world: Path) -> None:
    made = content(world)
    query = dataclasses.replace(made.tasks[TASK].queries[0], text="<script>alert(1)</script> & more")
    made.tasks[TASK] = page.TaskContent(None, [query], "mv_adapter-0")
    text = page.render(made, "data:image/png;base64,", "data:image/png;base64,")
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text


def test_without_an_index_the_page_says_so(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(world, root)
    shutil.rmtree(root / "outputs" / "indexes")
    page.write(root / "reports", content(root))
    assert "No queries are shown" in (root / "reports" / "index.html").read_text(encoding="utf-8")


def test_the_same_results_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    page.write(tmp_path, content(world))
    for path in sorted((world / "reports").rglob("*.*")):
        assert (tmp_path / path.relative_to(world / "reports")).read_bytes() == path.read_bytes(), path.name

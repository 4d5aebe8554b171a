from __future__ import annotations

import base64
import csv
import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trained_world
from trained_world import TASK

from components.adapters.file import load_adapter
from components.evaluation.card import read_scorecard, text_ranks
from components.fingerprint import code_of
from components.frames.store import FrameStore
from components.layout import Layout
from components.report import collect, page
from components.report.results import read_results
from components.search import gallery as shown
from components.search import index as indexes
from components.search.query import shared_backbone
from components.search.texts import TextVectors
from components.video import Video


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, an index of one of them, and a caption that tries to be markup."""
    root = tmp_path_factory.mktemp("reported")
    params = trained_world.write_trained(root, ("zero_shot", "mv_adapter"))
    text = (root / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(_run_block(text), encoding="utf-8")
    adapter = root / "outputs" / "adapters" / TASK / "mv_adapter-0"
    store = FrameStore(root / "outputs" / "frames" / TASK)
    method = load_adapter(adapter, shared_backbone(params.backbone, root))
    made = indexes.build(method, store, split="test", adapter_sha256=indexes.read_card(adapter).sha256, batch_size=4)
    made_from = {"method": "mv_adapter", "seed": 0, "split": "test"}
    found = shown.make_gallery(TextVectors(method, 4), store, made)
    indexes.write(made, root / "outputs" / "indexes" / TASK, adapter, made_from, found)
    page.write(root / "reports", collect.collect(root, trained_world.tiny_world.params(root)))
    return root


def _run_block(text: str) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    tree = YAML(typ="safe").load(text)
    tree["run"] = {"tasks": [TASK], "methods": ["zero_shot", "mv_adapter", "vop"], "seeds": [0]}
    stream = StringIO()
    YAML().dump(tree, stream)
    return stream.getvalue()


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


def test_curves_are_those_of_the_trainings(world: Path) -> None:
    rows = list(csv.DictReader((world / "reports" / "plots" / "curves.csv").read_text().splitlines()))
    mine = [(row["epoch"], row["t2v_R@1"]) for row in rows if row["name"] == f"{TASK} mv_adapter-0"]
    assert mine == [("1", "12.5"), ("2", "25.0")]


def test_a_report_without_validation_has_the_same_files(world: Path, tmp_path: Path) -> None:
    content = collect.collect(world, trained_world.tiny_world.params(world))
    page.write(tmp_path, dataclasses.replace(content, curves={}))
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
    assert text.count('class="query"') == len(_chosen_by_the_scorecard(world))
    assert text.count("data:image/jpeg") > 30


def _ranks(world: Path) -> dict[tuple[str, str], float]:
    return dict(text_ranks(Layout(world).scorecards(TASK, "mv_adapter", 0), "test"))


def _chosen_by_the_scorecard(world: Path) -> list[tuple[str, str]]:
    """Video and caption of the queries that the rule takes by the ranks of the scorecard."""
    store = FrameStore(world / "outputs" / "frames" / TASK)
    videos, decoded = store.manifest.by_id(), store.ids("test")
    rows = [
        shown.RankedCaption(text, videos[name], name in decoded, rank) for (name, text), rank in _ranks(world).items()
    ]
    return [(query.video.video_id, query.caption) for query in shown.choose(rows)]


def test_the_index_chooses_the_queries_as_the_scorecard_would(world: Path) -> None:
    queries = collect.collect(world, trained_world.tiny_world.params(world)).tasks[TASK].queries
    assert [(query.video_id, query.text) for query in queries] == _chosen_by_the_scorecard(world)


def test_pictures_are_the_first_the_middle_and_the_last_frame(world: Path) -> None:
    store = FrameStore(world / "outputs" / "frames" / TASK)
    for query in collect.collect(world, trained_world.tiny_world.params(world)).tasks[TASK].queries:
        for item in query.best:
            frames = next(store.read([item.hit.video_id])).frames
            wanted = [frames[place] for place in sorted({0, round((len(frames) - 1) / 2), len(frames) - 1})]
            assert [base64.b64decode(uri.partition(",")[2]) for uri in item.strip] == wanted


def test_the_report_loads_no_model(world: Path, tmp_path: Path) -> None:
    """Neither as it runs nor by the imports that decide when it runs again."""
    root = tmp_path / "copy"
    shutil.copytree(world, root)
    shutil.rmtree(root / "outputs" / "frames")
    shutil.rmtree(root / "models")
    script = Path(__file__).resolve().parents[2] / "pipelines" / "report.py"
    code = (
        "import json, runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[0].rpartition('/')[0]);"
        "runpy.run_path(sys.argv[0], run_name='__main__');"
        "print(json.dumps(sorted(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(script), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & {"torch", "open_clip", "ray", "mlflow", "av", "decord"}
    model_free = ("components.backbones.settings", "components.backbones.spec", "components.methods.entries")
    parts = ("components.backbones.", "components.methods.", "components.frames.reader", "components.search.query")
    assert {name for name in loaded if name.startswith(parts)} <= set(model_free)
    files = {file.removesuffix(".py").replace("/", ".") for file in code_of("report").files}
    packages = ("components.backbones.__init__", "components.methods.__init__")
    assert {name for name in files if name.startswith(parts)} <= {*model_free, *packages}
    for name in ("index.html", "results.json"):
        assert (root / "reports" / name).read_bytes() == (world / "reports" / name).read_bytes()


def test_shown_ranks_are_those_of_the_scorecard(world: Path) -> None:
    task = collect.collect(world, trained_world.tiny_world.params(world)).tasks[TASK]
    ranks = _ranks(world)
    for query in task.queries:
        right = [item.hit.rank for item in [*query.best, query.right] if item is not None and item.is_right]
        assert right == [ranks[query.video_id, query.text]] == [query.ranks["mv_adapter-0"]]


def test_the_draw_takes_hits_and_misses_inside_and_outside_the_parts() -> None:
    rows = [
        shown.RankedCaption(
            caption="c",
            video=Video(f"v{n}", uri=f"v{n}.mp4", split="test", captions=("c",), subsets=("t",) * (n % 3 == 0)),
            decoded=n < 36,
            rank=1.0 if n % 2 else 4.0,
        )
        for n in range(40)
    ]
    chosen = shown.choose(rows)
    kinds = [(bool(query.video.subsets), query.rank == 1) for query in chosen]
    assert sorted(kinds) == sorted([(a, b) for a in (True, False) for b in (True, False)] * 2)
    assert all(query.decoded for query in chosen)
    assert chosen == shown.choose(rows)


def test_captions_are_text_and_never_markup(world: Path) -> None:
    content = collect.collect(world, trained_world.tiny_world.params(world))
    query = dataclasses.replace(content.tasks[TASK].queries[0], text="<script>alert(1)</script> & more")
    content.tasks[TASK] = page.TaskContent(None, [query], "mv_adapter-0")
    text = page.render(content, "data:image/png;base64,", "data:image/png;base64,")
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text


def test_without_an_index_the_page_says_so(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(world, root)
    shutil.rmtree(root / "outputs" / "indexes")
    page.write(root / "reports", collect.collect(root, trained_world.tiny_world.params(root)))
    assert "No queries are shown" in (root / "reports" / "index.html").read_text(encoding="utf-8")


def test_the_same_results_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    page.write(tmp_path, collect.collect(world, trained_world.tiny_world.params(world)))
    for path in sorted((world / "reports").rglob("*.*")):
        assert (tmp_path / path.relative_to(world / "reports")).read_bytes() == path.read_bytes(), path.name

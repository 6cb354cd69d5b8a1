"""Many queries at once: files of them, the same answers as one at a time, hits as Parquet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import builds, config, progress, search, storage
from pipeline.archive import Archive
from pipeline.builds import Build
from pipeline.cli import main
from pipeline.photo import UserError
from pipeline.search import Query
from pipeline.search.hits import HITS, write_parquet
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive as small
from tests.test_search import Embedder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    archive, _ = small.make(str(tmp_path_factory.mktemp("queries") / "archive"))
    index.build(archive, IndexSettings())
    return archive


@pytest.fixture(scope="module")
def build(archive: Archive) -> Build:
    return builds.open_build(archive.url)


class Counting(Embedder):
    """How many texts, and how many pictures, it was given each time."""

    def __init__(self) -> None:
        self.texts: list[int] = []
        self.pictures: list[int] = []

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        self.texts.append(len(texts))
        return super().embed_texts(texts)

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        self.pictures.append(len(batch))
        return super().embed_images(batch)


def mixed(folder: Path) -> list[Query]:
    """Queries of every kind, in no order."""
    picture = folder / "green.jpg"
    picture.write_bytes(small.jpeg((0, 255, 0)))
    words = [Query(f"boat {n}", k=n % 4 + 1, where=(None, "title > 'title of flickr:1'")[n % 2]) for n in range(20)]
    photos = [Query(image=f"flickr:{n % 3}-{n}", plus=(None, "flickr:2-1")[n % 2], minus="blue") for n in range(20)]
    said = [Query(f"title of flickr {n}", mode=("words", "hybrid")[n % 2], k=5) for n in range(10)]  # type: ignore[arg-type]
    others = [Query(image=str(picture), k=80), Query("a boat", where="false"), Query(image=str(picture), where="true")]
    queries = [*words, *photos, *said, *others]
    return [queries[place] for place in np.random.default_rng(0).permutation(len(queries))]


def test_many_queries_answer_as_one_at_a_time(build: Build, tmp_path: Path) -> None:
    queries = mixed(tmp_path)
    model = Counting()
    together = search.search_many(build, queries, lambda: model)
    alone = [search.search(build, query, Embedder) for query in queries]
    for one, many in zip(alone, together, strict=True):
        assert (one.query, one.among, one.pictures) == (many.query, many.among, many.pictures)
        assert [(hit.photo_id, hit.title, hit.ranks) for hit in one.hits] == [
            (hit.photo_id, hit.title, hit.ranks) for hit in many.hits
        ]
        assert [hit.score for hit in one.hits] == pytest.approx([hit.score for hit in many.hits], abs=1e-6)
    assert (model.texts, model.pictures) == ([27], [1])  # 20 + 5 texts, “blue” and “a boat”; one picture, named twice


def test_batches_are_bounded(build: Build) -> None:
    def sizes(queries: list[Query]) -> list[int]:
        model = Counting()
        assert len(search.search_many(build, queries, lambda: model)) == len(queries)
        return model.texts

    assert sizes([Query(f"boat {n}") for n in range(600)]) == [256, 256, 88]
    assert sizes([Query(f"boat {n}", k=200_000) for n in range(5)]) == [2, 2, 1]


def test_queries_are_taken_as_they_come(build: Build) -> None:
    taken = []

    def queries() -> Any:
        for number in range(1000):
            taken.append(number)
            yield Query(f"boat {number}")

    answers = search.answers([build], queries(), lambda _: Embedder())
    assert next(answers).query == Query("boat 0")
    assert len(taken) == 257


def test_hits_are_written_as_parquet(build: Build, tmp_path: Path) -> None:
    queries = [
        Query("a boat", k=3, id="mine"),
        Query("a boat", where="false"),
        Query(image="flickr:0-3", plus="blue", k=2),
        Query("title flickr", k=2, mode="hybrid"),
    ]
    answers = search.search_many(build, queries, Embedder)
    path = tmp_path / "new" / "hits.parquet"
    for _ in range(2):  # what is there is replaced
        assert write_parquet(str(path), iter(answers)) == 7
    assert [file.name for file in path.parent.iterdir()] == ["hits.parquet"]
    table = pq.read_table(path)
    assert table.schema.equals(HITS)
    rows = table.to_pylist()
    assert [(row["query"], row["rank"]) for row in rows] == [(0, 1), (0, 2), (0, 3), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert [(row["id"], row["text"], row["image"], row["plus"]) for row in rows[2:5:2]] == [
        ("mine", "a boat", None, None),
        (None, None, "flickr:0-3", "blue"),
    ]
    hits = [hit for answer in answers for hit in answer.hits]
    for row, hit in zip(rows, hits, strict=True):
        assert dict(row["ranks"]) == hit.ranks
        assert {name: row[name] for name in HITS.names[9:]} == {name: getattr(hit, name) for name in HITS.names[9:]}
        assert row["score"] == hit.score


def test_an_answer_that_fails_leaves_no_file(build: Build, tmp_path: Path) -> None:
    answers = search.answers([build], [Query("a boat"), Query("a", minus="a")], lambda _: Embedder())
    with pytest.raises(UserError, match="cancel each other out"):
        write_parquet(str(tmp_path / "hits.parquet"), answers)
    assert list(tmp_path.iterdir()) == []


def test_hits_go_to_a_store(build: Build, place: str) -> None:
    url = storage.join(place, "hits.parquet")
    write_parquet(url, search.search_many(build, [Query("a boat")], Embedder))
    with storage.open_file(url) as file:
        assert pq.read_table(file).num_rows == 6


def written(path: Path, rows: list[Any]) -> str:
    """Queries in the form that the file's name says."""
    if path.suffix == ".parquet":
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return str(path)


@pytest.mark.parametrize("name", ["queries.jsonl", "queries.parquet"])
def test_files_of_queries(tmp_path: Path, name: str) -> None:
    rows = [{"text": "a boat", "id": 7}, {"image": "flickr:1", "k": 2}, {"text": "b", "mode": "words", "scale": 2.0}]
    assert config.load_queries(written(tmp_path / name, rows), 4, "true") == [
        Query("a boat", k=4, where="true", id="7"),
        Query(image="flickr:1", k=2, where="true"),
        Query("b", k=4, where="true", mode="words", scale=2.0),
    ]


def test_a_line_may_be_a_string(tmp_path: Path) -> None:
    path = written(tmp_path / "queries.jsonl", ["mini golf", {"text": "a boat"}])
    assert config.load_queries(path, 6, None, "hybrid") == [
        Query("mini golf", mode="hybrid"),
        Query("a boat", mode="hybrid"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.jsonl", '"a"\n\n{"text": "a"', "q.jsonl, line 3: not valid JSON"),
        ("q.jsonl", '"a"\n[1]', "q.jsonl, line 2: a query is"),
        ("q.jsonl", '{"txt": "a"}', "q.jsonl, line 1: unknown setting txt; did you mean 'text'"),
        ("q.jsonl", '"a"\n{"text": "a", "k": 0}', "q.jsonl, line 2: -k 0"),
        ("q.jsonl", '"a"\n{"text": 5}', "q.jsonl, line 2: text:"),
        ("q.jsonl", '{"image": "a", "mode": "words"}', "q.jsonl, line 1: --hybrid and --text-only"),
        ("q.jsonl", "\n\n", "holds no queries"),
        ("q.jsonl", b"\xff\xfe", "cannot read the queries"),
        ("q.parquet", "no such thing", "cannot read the queries"),
        ("q.csv", "text", "q.csv: queries come as .jsonl, .parquet, .yaml, .yml"),
        ("q.yaml", "[{text: a}, {text: ' '}]", "q.yaml, query 2: search for either words or a picture"),
    ],
)
def test_a_bad_query_is_said_with_its_place(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        config.load_queries(str(path), 6, None)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_table_without_queries_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "q.parquet", [{"caption": "a"}])
    with pytest.raises(UserError, match="no column text and none named image, but caption"):
        config.load_queries(path, 6, None)
    path = written(tmp_path / "q.parquet", [{"text": "a", "caption": "a"}])
    with pytest.raises(UserError, match="row 1: unknown setting caption"):
        config.load_queries(path, 6, None)
    for name in ("none.parquet", "none.jsonl"):
        with pytest.raises(UserError, match=r"cannot read the queries .*No such file"):
            config.load_queries(str(tmp_path / name), 6, None)


def test_the_command_line(archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [{"image": "flickr:0-1", "id": "one"}, {"text": "title", "mode": "words", "where": "row_id < 9"}]
    path, hits = written(tmp_path / "q.jsonl", asked), tmp_path / "hits.parquet"
    command = ["search", archive.url, "--queries", path, "-k", "4", "--out", str(hits)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == f"tintype: wrote 8 hits of 2 queries to {hits}\n"
    assert pq.read_table(hits)["id"].to_pylist() == ["one"] * 4 + [None] * 4
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [len(one["hits"]) for one in told] == [4, 4] and told[0]["query"]["id"] == "one"
    assert main(["search", archive.url, "title", "--text-only", "--out", str(hits)]) == 0
    assert pq.read_table(hits)["query"].to_pylist() == [0] * 6
    capsys.readouterr()
    for wrong, said in [
        ([*command[:-1], "hits.csv"], "ends in .parquet"),
        ([*command, "--image", "flickr:0-1"], "one query or a file of them"),
        ([*command[:-1], "nonsense://x/hits.parquet"], "cannot open nonsense://"),
    ]:
        assert main(wrong) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert said in line


def test_only_of_many_queries_is_said_how_many_are_done(
    archive: Archive, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_S", 0)
    two = written(tmp_path / "q.jsonl", [{"text": "title"}, {"text": "flickr"}])
    assert main(["search", archive.url, "--queries", two, "--text-only", "--json"]) == 0
    assert "2 of 2 queries" in capsys.readouterr().err
    assert main(["search", archive.url, "title", "--text-only", "--json"]) == 0
    assert capsys.readouterr().err == ""

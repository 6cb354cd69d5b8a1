"""Full-text search: BM25 as it is written down, whatever a query holds, and one ranking over several files."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import words

PHOTOS: list[dict[str, Any]] = [
    {"row_id": 0, "title": "Boats at Montréal", "tags": ["old harbour"], "caption": "two boats in the water"},
    {"row_id": 1, "title": "View", "description": '<b>O\'Brien</b> &amp; <a href="http://hidden.org">his</a> boat'},
    {"row_id": 2, "title": "富士山の写真", "description": "I <3 it", "caption": "a mountain"},
    {"row_id": 3, "title": "Mini-golf", "human_captions": ["somebody putting", "a sunny day"]},
    {"row_id": 1 << 40, "title": "서울에서", "description": "cafe\u0301 हिन्दी"},
    {"row_id": 5, "title": "ΟΔΟΣ", "caption": "eine alte Straße"},
]  # fmt: skip
NONE = np.empty(0, np.int64)  # nothing of a file is masked
COLUMNS = ("title", "description", "tags", "human_captions", "caption")
SCHEMA = pa.schema(
    {"row_id": pa.int64()}
    | {name: pa.list_(pa.string()) if name in ("tags", "human_captions") else pa.string() for name in COLUMNS}
)


def written(folder: Path, photos: list[dict[str, Any]], name: str = "words") -> Path:
    pq.write_table(pa.Table.from_pylist(photos, SCHEMA), folder / "photos.parquet")
    words.write(folder / "photos.parquet", folder / f"{name}.sqlite")
    return folder / f"{name}.sqlite"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("words"), PHOTOS)


def found(path: Path, text: str, **limits: Any) -> list[int]:
    return [row_id for row_id, _ in words.search([(path, NONE)], text, 10, **limits)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("boat", [0, 1]),  # its title says it, and its caption
        ("MONTREAL", [0]),
        ("harbours", [0]),
        ("hidden", []),  # within a tag of HTML
        ("amp", []),
        ("o'brien", [1]),
        ("mini golf", [3]),
        ("mini-golf", [3]),
        ("golf-mini", []),
        ('"in the water"', [0]),
        ('"water in the"', []),
        ("“in the water” mountain", [0, 2]),
        ("sunny putting", [3]),
        ("it", [2]),
        ("café", [1 << 40]),
        ("CAFÉ", [1 << 40]),
        ("हिन्दी", [1 << 40]),
        ("富士山", [2]),
        ("富士通", [2]),  # half of it
        ('"富士通"', []),
        ("写真", [2]),
        ("서울", [1 << 40]),
        ("Straße", [5]),
        ("ΟΔΟΣ alt", [5]),
        ("nothing of that", []),
    ],
)
def test_what_words_find(file: Path, text: str, expected: list[int]) -> None:
    assert found(file, text) == expected


SIGNS = ["", " ", '"', '"""', "*", "-", "--", "'", "⛵", "…", "\0", "__", "NEAR(", "(", ":", "^", "{}", "\u0301"]


@pytest.mark.parametrize("text", SIGNS)
def test_signs_find_nothing(file: Path, text: str) -> None:
    assert found(file, text) == []


@pytest.mark.parametrize(
    "text",
    [
        "boat*", "-boat", "(boat", "boat)", '"boat', 'boat"', "title:boat", "{title}:boat", "^boat", "boat AND nothing",
        "NEAR(boat nothing, 2)", "boat OR", "NOT boat", "boat + nothing", "boat; DROP TABLE words", "boat\0", "boat 🎞",
        "boat boats Boat", "\ufeffboat",
    ],
)  # fmt: skip
def test_no_sign_is_syntax(file: Path, text: str) -> None:
    assert found(file, text) == [0, 1]


def test_long_queries_keep_their_rarest_words(tmp_path: Path) -> None:
    photos = [{"row_id": row, "title": f"w{row} every" + " other" * (row % 2)} for row in range(300)]
    path = written(tmp_path, photos)
    assert len(words.search([(path, NONE)], " ".join(f"w{row}" for row in range(300)), 1000)) == words.MOST_WORDS
    assert found(path, " ".join(f"x{row}" for row in range(3000)) + " other w7") == [7]


def test_within_and_without_some_rows(file: Path) -> None:
    assert found(file, "boat mountain golf", among=np.array([3, 1, 77])) == [3, 1]
    assert found(file, "boat", without=[0]) == [1]
    assert found(file, "boat", among=np.array([0, 1]), without={1}) == [0]
    assert found(file, "boat", among=np.array([], np.int64)) == []
    assert [row_id for row_id, _ in words.search([(file, NONE)], "boat", 1)] == [0]


def bm25(photos: list[list[str]], asked: list[str]) -> np.ndarray:
    """Robertson's BM25 with k1 = 1.2, b = 0.75 of each photo, a list of words."""
    lengths = np.array([len(photo) for photo in photos])
    score = np.zeros(len(photos))
    for word in asked:
        times = np.array([photo.count(word) for photo in photos])
        n = np.count_nonzero(times)
        idf = math.log(1 + (len(photos) - n + 0.5) / (n + 0.5))
        score += idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * lengths / lengths.mean()))
    return score


@pytest.mark.parametrize("asked", [["w3"], ["w18", "w20"], ["w0"], ["w0", "w1"], ["w17", "w23", "w19"]])
def test_scores_are_bm25_over_all_files_together(tmp_path: Path, asked: list[str]) -> None:
    generator = np.random.default_rng(0)
    texts = [[f"w{min(int(word), 29)}" for word in generator.geometric(0.12, 12) - 1] for _ in range(400)]
    photos = [{"row_id": row, "description": " ".join(text)} for row, text in enumerate(texts)]
    # Once as one file, once as two, of which the smaller holds the word in another share of its photos.
    last = sorted(range(400), key=lambda row: (asked[0] in texts[row], row))[-60:]
    two = [[photos[row] for row in range(400) if (row in last) == one] for one in (False, True)]
    expected = bm25(texts, asked)
    order = np.lexsort((np.arange(400), -expected.round(9)))[: np.count_nonzero(expected)]
    for files in ([photos], two):
        paths = [written(tmp_path, part, f"{len(files)}-{number}") for number, part in enumerate(files)]
        hits = words.search([(path, NONE) for path in paths], " ".join(asked), 1000)
        assert [score for _, score in hits] == pytest.approx(expected[order].tolist())
        assert {round(score, 6) for _, score in hits} == {*expected[order].round(6)}
        assert sorted(row_id for row_id, _ in hits) == sorted(order)
        assert words.search([(path, NONE) for path in paths], " ".join(asked), 7) == hits[:7]


def test_common_words_are_passed_over_where_there_are_others(tmp_path: Path) -> None:
    path = written(tmp_path, [{"row_id": row, "title": "the sea" if row else "the wreck"} for row in range(60)])
    assert found(path, "the wreck") == [0]
    assert len(words.search([(path, NONE)], "the", 100)) == 60
    assert words.search([(path, NONE)], "the the sea", 100)[0][0] == 1


def test_the_same_rows_make_the_same_file(tmp_path: Path, file: Path) -> None:
    assert written(tmp_path, PHOTOS).read_bytes() == file.read_bytes()


def test_the_text_itself_is_not_in_it(tmp_path: Path) -> None:
    path = written(tmp_path, [{"row_id": 0, "description": "one two three four five six"}])
    assert b"two three" not in path.read_bytes()


def test_nothing_to_index(tmp_path: Path) -> None:
    assert words.search([(written(tmp_path, []), NONE)], "boat", 5) == []


def test_a_damaged_file_is_said(tmp_path: Path, file: Path) -> None:
    whole = file.read_bytes()
    for damage in (None, b"", b"x" * 5000, whole[:4096], whole[:100] + bytes(len(whole) - 100)):
        path = tmp_path / "words.sqlite"
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(words.Damaged, match="is not a readable index of words"):
            words.search([(path, NONE)], "boat", 5)

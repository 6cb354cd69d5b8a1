"""Full-text search of a build: titles, descriptions, tags and captions → row ids, by BM25, in one SQLite file (FTS5).

The file is contentless: it holds which word stands where, not the text, which photos.parquet has already. Words are
compared as `TOKENIZER` leaves them: without case and accents, English endings taken off. Porter's stemmer knows
English alone. What it takes off words of other languages it takes off photos and queries alike, so each word still
finds itself; that now and then two are taken for one costs less than "boats" not finding "boat".
"""

import contextlib
import html
import itertools
import math
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

COLUMNS = ("row_id", "title", "description", "tags", "human_captions", "caption")  # of photos.parquet
WEIGHTS = {"title": 4.0, "description": 1.0, "tags": 2.0, "caption": 1.0}  # what a word there counts for
TOKENIZER = "porter unicode61 remove_diacritics 2"
COMMON = 0.2  # words in a larger share of the photos tell them little apart, and cost the most
FEW = 10  # photos that no word is too common for
MOST_WORDS = 100  # of one query: the rarest
BATCH = 4096  # photos read at a time
HASH_BYTES = 64 << 20  # of words gathered in memory before they are written
WHOLE_BYTES = 1 << 40  # SQLite maps so much of a file at most: all of it

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_QUOTES = str.maketrans("“”„«»", '"' * 5)
# Chinese, Japanese and Korean put no space between words, or not only there: each of their characters is a word here.
_CHARACTERS = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"


class Damaged(Exception):
    """A file that is not, or no longer, a whole index of words."""


def write(photos: Path, path: Path) -> None:
    """Index the words of a build's photos.parquet into a new file at `path`: the same bytes for the same rows."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        # A file that was not finished is never read: nothing of it need survive a crash.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
            database.execute(f"PRAGMA {pragma}").fetchall()
        columns, places = ", ".join(WEIGHTS), ", ".join("?" * len(WEIGHTS))
        weights = ", ".join(map(str, WEIGHTS.values()))
        database.execute("BEGIN")
        database.execute(f"CREATE VIRTUAL TABLE words USING fts5({columns}, content='', tokenize='{TOKENIZER}')")
        for setting, value in {"rank": f"bm25({weights})", "hashsize": HASH_BYTES, "automerge": 0}.items():
            database.execute("INSERT INTO words(words, rank) VALUES (?, ?)", [setting, value])
        database.executemany(f"INSERT INTO words(rowid, {columns}) VALUES (?, {places})", _texts(photos))
        database.execute("INSERT INTO words(words) VALUES ('optimize')")
        database.execute("CREATE TABLE size AS SELECT count(*) AS photos FROM words_docsize")
        database.execute("COMMIT")


def _texts(photos: Path) -> Iterator[tuple[int | str, ...]]:
    """Row id, and the text of each column, of every photo."""
    with pq.ParquetFile(photos) as file:
        for batch in file.iter_batches(BATCH, columns=list(COLUMNS)):
            columns = (batch[name].to_pylist() for name in COLUMNS)
            for row_id, title, description, tags, written, caption in zip(*columns, strict=True):
                captions = "\n".join(filter(None, [*(written or ()), caption]))
                texts = (title or "", plain(description or ""), "\n".join(tags or ()), captions)
                yield row_id, *map(_apart, texts)


def plain(text: str) -> str:
    """A description without the HTML that Flickr's hold."""
    return html.unescape(_TAG.sub(" ", text))


def _apart(text: str) -> str:
    """Text as it is indexed: composed, with space around each character that is a word."""
    return text if text.isascii() else re.sub(_CHARACTERS, r" \g<0> ", unicodedata.normalize("NFC", text))


def search(
    files: Sequence[tuple[Path, np.ndarray]],
    text: str,
    k: int,
    *,
    among: np.ndarray | None = None,
    without: Iterable[int] = (),
) -> list[tuple[int, float]]:
    """The k photos that say most of a text: (row id, BM25), best first, equals by row id. Raises Damaged.

    Any of its words will do, rare ones count for more, and what stands in double quotes must stand together. Words in
    more than a fifth of the photos are passed over where there are others: they would fill the end of every ranking.
    `files`: each with those of its row ids that hold no longer, int64[n]; several, of different photos, are searched as
    if they were one. `among`: row ids to search within, all where None. `without`: row ids not to answer.
    """
    phrases = _phrases(text)
    if not phrases:
        return []
    excluded = frozenset(without)
    found: list[tuple[int, float]] = []
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_opened(path)) for path, _ in files]
        for file, factors, (_, masked) in zip(opened, _weighed(opened, phrases), files, strict=True):
            found += _best(file, factors, k, _kept(among, excluded.union(masked.tolist())))
    return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:k]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A file of words, of which only what is asked for is read."""
    url = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(url, uri=True)) as database:
            database.execute(f"PRAGMA mmap_size = {WHOLE_BYTES}").fetchall()
            yield database
    except sqlite3.DatabaseError as error:
        raise Damaged(f"{path} is not a readable index of words: {error}") from error


def _phrases(text: str) -> list[str]:
    """What a text asks for, as FTS5 strings: nothing in it is taken for syntax, whatever it holds.

    A word with a hyphen or an apostrophe in it is a phrase; so are each two neighbours of Chinese, Japanese or Korean
    characters, unless the user's own quotes say more.
    """
    found: dict[str, str] = {}
    for number, part in enumerate(re.split(r'"([^"]*)"', text.translate(_QUOTES))):
        letters = unicodedata.normalize("NFC", part)
        said = "".join(c if unicodedata.category(c)[0] in "LMN" or c in "-'’" else " " for c in letters)
        asked = [said] if number % 2 else [pair for word in said.split() for pair in _pairs(word)]
        for one in asked:
            if any(map(str.isalnum, one)):
                found.setdefault(one.casefold(), f'"{_apart(one).strip()}"')
    return list(found.values())


def _pairs(word: str) -> Iterator[str]:
    """A word as it is; where it holds characters that are words, its other parts and each two neighbours of them."""
    for part in re.split(f"({_CHARACTERS}+)", word):
        if len(part) > 1 and re.match(_CHARACTERS, part):
            yield from map("".join, itertools.pairwise(part))
        else:
            yield part


def _weighed(files: Sequence[sqlite3.Connection], phrases: Sequence[str]) -> list[dict[str, float]]:
    """For each file, the phrases worth asking it for, and the factor that makes its ranks those of all files together.

    FTS5 takes a word's weight from the one file, and gives a word in more than half of its photos almost none. Ours is
    ln(1 + (N - n + 0.5) / (n + 0.5)), of all N photos, n with the word: always positive, and it never jumps.
    """
    sizes = [file.execute("SELECT photos FROM size").fetchone()[0] for file in files]
    count = "SELECT count(*) FROM words WHERE words MATCH ?"
    counts = {phrase: [file.execute(count, [phrase]).fetchone()[0] for file in files] for phrase in phrases}
    most = max(COMMON * sum(sizes), FEW)
    held = sorted((phrase for phrase in phrases if sum(counts[phrase])), key=lambda phrase: sum(counts[phrase]))
    telling = [phrase for phrase in held if sum(counts[phrase]) <= most] or held

    def factor(phrase: str, file: int) -> float:
        n, size = counts[phrase][file], sizes[file]
        own = math.log((size - n + 0.5) / (n + 0.5))
        n, size = sum(counts[phrase]), sum(sizes)
        return -math.log1p((size - n + 0.5) / (n + 0.5)) / (own if own > 0 else 1e-6)

    return [
        {phrase: factor(phrase, file) for phrase in telling[:MOST_WORDS] if counts[phrase][file]}
        for file in range(len(files))
    ]


def _kept(among: np.ndarray | None, excluded: frozenset[int]) -> Callable[[int], bool] | None:
    """Whether a row id may be answered; None where all may."""
    if among is not None:
        return (frozenset(among.tolist()) - excluded).__contains__
    return (lambda row_id: row_id not in excluded) if excluded else None


def _best(
    file: sqlite3.Connection, factors: dict[str, float], k: int, kept: Callable[[int], bool] | None
) -> list[tuple[int, float]]:
    if not factors:
        return []
    condition = ""
    if kept is not None:
        file.create_function("kept", 1, kept, deterministic=True)
        condition = " AND kept(rowid)"
    one = f"SELECT rowid AS row_id, rank * ? AS score FROM words WHERE words MATCH ?{condition}"
    ranked = "SELECT row_id, sum(score) AS score FROM ({}) GROUP BY row_id ORDER BY score DESC, row_id LIMIT ?"
    values = [value for phrase, factor in factors.items() for value in (factor, phrase)]
    return file.execute(ranked.format(" UNION ALL ".join([one] * len(factors))), [*values, k]).fetchall()

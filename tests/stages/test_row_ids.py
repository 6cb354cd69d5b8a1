"""Every hit's row id leads to its own photo, through all that may happen to an archive and its index."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline import builds
from pipeline.archive import Archive
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from pipeline.upkeep import forget
from tests import small_archive as small

STEPS, ADDED = 20, 60


class Story:
    """An archive to which things happen, and what its photos' vectors then are."""

    def __init__(self, archive: Archive, kind: str) -> None:
        self.archive, self.settings = archive, IndexSettings(kind=kind, keep=1)
        self.rng = np.random.default_rng(len(kind))
        self.vectors: dict[str, np.ndarray] = {}
        self.hidden: set[str] = set()
        self.part = 0

    def some(self, count: int) -> list[str]:
        return list(self.rng.choice(sorted(self.vectors.keys() - self.hidden), count, replace=False))

    def add(self, again: int) -> None:
        """A part of new photos, and of some that were fetched again, in any order."""
        new = [f"flickr:{self.part}-{row}" for row in range(ADDED - again)]
        ids = list(self.rng.permutation([*(self.some(again) if again else []), *new]))
        small.add_pictures(self.archive, self.part, [small.photo(photo_id) for photo_id in ids])
        vectors = small.random_vectors(len(ids), seed=int(self.rng.integers(1 << 30)))
        small.add_vectors(self.archive, self.part, list(vectors))
        self.vectors |= dict(zip(ids, vectors, strict=True))
        self.part += 1

    def edit(self, day: int) -> None:
        for photo_id in self.some(2):
            small.change(self.archive, photo_id, "title", f'"{photo_id} on day {day}"', days=day)

    def hide(self, day: int) -> None:
        for photo_id in self.some(2):
            small.change(self.archive, photo_id, "visible", "false", days=day)
            self.hidden.add(photo_id)

    def show(self, day: int) -> None:
        for photo_id in sorted(self.hidden)[:2]:
            small.change(self.archive, photo_id, "visible", "true", days=day)
            self.hidden.remove(photo_id)

    def forget(self) -> None:
        for photo_id in (gone := self.some(2)):
            del self.vectors[photo_id]
        forget.forget(self.archive, gone, "asked")
        forget.finish(self.archive)

    def check(self) -> None:
        build = builds.open_build(self.archive.url)
        embeddings = self.archive.table("embeddings/tiny")
        shown = sorted(self.vectors.keys() - self.hidden)
        assert sorted(build.photos(["photo_id"])["photo_id"].to_pylist()) == shown
        asked = self.some(20)
        queries = small.unit([self.vectors[photo_id] for photo_id in asked])
        scores, found = build.nearest(queries, 6)
        row_ids = np.unique(found[found >= 0]).tolist()
        said = {row_id: facts["photo_id"] for row_id, facts in build.facts(row_ids, ["photo_id"]).items()}
        rows = {
            row["row_id"]: row for row in embeddings.read_rows(row_ids, ["row_id", "photo_id", "embedding"]).to_pylist()
        }
        for photo_id, query, cosines, hits in zip(asked, queries, scores, found, strict=True):
            assert said[hits[0]] == photo_id
            for cosine, row_id in zip(cosines.tolist(), hits.tolist(), strict=True):
                assert rows[row_id]["photo_id"] == said[row_id]
                vector = np.array(rows[row_id]["embedding"], np.float16)
                assert np.array_equal(vector, self.vectors[said[row_id]])
                assert float(small.unit(vector) @ query) == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize("kind", ["flat", "ivf_pq"])
def test_every_row_id_leads_to_its_own_photo(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.small_numbers(monkeypatch)
    story = Story(Archive.create(str(tmp_path / "archive")), kind)
    for _ in range(5):
        story.add(again=0)
    bases = []
    for day in range(1, STEPS + 1):
        todo = [partial(story.add, again=9), *(partial(act, day) for act in (story.edit, story.hide, story.show))]
        for happens in story.rng.choice(len(todo), 2, replace=False):
            todo[happens]()
        card, _ = index.build(story.archive, story.settings, update=day % 7 != 0)
        bases.append(card["base"])
        story.check()
        if day % 5 == 0:
            story.forget()
            story.check()
    assert len(set(bases)) > 3 and bases.count(None) < STEPS / 2

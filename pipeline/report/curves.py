"""How index builds search: what their cards say, and recall and latency measured now, on this machine."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline import builds, imaging, storage
from pipeline.archive import Archive
from pipeline.builds import Build
from pipeline.facts import reading
from pipeline.indexes import FLAT, recall
from pipeline.stages import index, measure

SECONDS = 8.0  # that a curve may take; a step begun is ended
CARD = ("of", "build", "kind", "why", "rows", "dim", "nlist", "effort", "base", "drift", "created_at", "recall",
        "latency_ms", "seconds", "problems", "not_annotated")  # fmt: skip


def said(archive: Archive, build: Build) -> dict[str, Any]:
    """What a card says of a build, its model, bytes, age, whether it is fresh, and its curves; see `measured`."""
    card = build.card
    age = datetime.now(UTC) - datetime.fromisoformat(card["created_at"])
    identity = card["identity"] or {}
    return {key: card[key] for key in CARD} | {
        "model": " / ".join(filter(None, (identity.get("model"), identity.get("pretrained")))),
        "bytes": sum(card["bytes"].values()),
        "age_s": round(age.total_seconds()),
        "fresh": index.is_fresh(archive, card),
        "measured": measured(build),
    }


def measured(build: Build) -> dict[str, Any] | None:
    """`{"cpus", "curve", "depths"}`, measured now; None where the build's queries are there no longer.

    `curve` is recall@10 and latency at each effort; of a build that grew, those of its base. `depths` is latency by
    the number of hits. Raises UserError for a damaged build.
    """
    card = build.card
    where = builds.folder(build.archive, card["of"], card["base"] or card["build"])
    if not storage.exists(storage.join(where, builds.TRUTH)):
        return None
    with reading(where):
        known = recall.read(storage.brought(storage.join(where, builds.TRUTH), build.folders[0]))
    known = recall.without(known, build.masked)
    embeddings = build.archive.table(f"embeddings/{card['of']}")
    # An exact index knows one effort only, and has no curve.
    steps = (
        [] if build.kinds[0] == FLAT else measure.curve(build.segments[:1], known, embeddings, _names(build), SECONDS)
    )
    depths = {str(k): measure.latency(build.segments, known.queries, k) for k in recall.AT if k <= card["rows"]}
    return {"cpus": imaging.cpus(), "curve": steps, "depths": depths}


def _names(build: Build) -> measure.Names:
    def names(found: np.ndarray) -> Mapping[int, str]:
        facts = build.facts(np.unique(found[found >= 0]).tolist(), ["photo_id"])
        return {row_id: fact["photo_id"] for row_id, fact in facts.items()}

    return names

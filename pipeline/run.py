"""What a configuration asks for, done: list, fetch, annotate, index; whatever of it is missing."""

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import logs, rollup, runs, storage, work
from pipeline.archive import Archive
from pipeline.config import Settings
from pipeline.models.settings import LabelSettings, ObjectSettings
from pipeline.photo import REASONS
from pipeline.progress import Progress
from pipeline.sources.flickr import FlickrSource
from pipeline.stages import fetch, index
from pipeline.stages.fill import Each, in_threads
from pipeline.upkeep import forget

log = logging.getLogger(__name__)

# torch, open_clip and ray take ten seconds to load: what needs them imports them, and listing and fetching do without.
Weights = dict[tuple[str, str | None], tuple[Path, str] | None]  # (model, pretrained) → file and SHA-256; None: random
PACED = 5.0  # requests a second that one fetching worker makes surely
SECRETS = ("FLICKR_API_KEY", "FLICKR_API_SECRET", "UNSPLASH_ACCESS_KEY")


@dataclass(frozen=True)
class Summary:
    """What a run did. `card` is None where no index was asked for, `built` says whether it is new."""

    progress: Progress
    card: dict[str, Any] | None
    built: bool

    def exit_status(self, max_failed: float) -> int:
        """1 if a part was given up, or more than `max_failed` of the run's pictures failed in a way that may pass."""
        passing = sum(count for reason, count in self.progress.reasons.items() if REASONS[reason])
        asked = sum(self.progress.outcomes.values())
        return int(bool(self.progress.failures) or (asked > 0 and passing / asked > max_failed))


def find_weights(settings: Settings) -> Weights:
    """Find, or fetch, the weights of every model that the settings name. Raises UserError."""
    models = {(asked.model, asked.pretrained) for asked in settings.derived().values()}
    if not models:
        return {}
    from pipeline.models import openclip, repository, weights

    detectors = {(asked.model, None) for asked in settings.objects.values()}

    def find(model: str, pretrained: str | None) -> tuple[Path, str] | None:
        if (model, pretrained) in detectors:
            return repository.checkpoint(model)
        return None if pretrained == openclip.RANDOM else weights.checkpoint(model, pretrained)

    return {key: find(*key) for key in sorted(models, key=str)}


def store_weights(archive: Archive, found: Weights) -> None:
    """Put the weights into the archive, for all workers and for searches without a network."""
    if not any(found.values()):
        return
    from pipeline.models import store

    for (model, pretrained), checkpoint in found.items():
        if checkpoint:
            store.put(archive.url, model, pretrained, *checkpoint)


def stages_of(settings: Settings, archive: Archive, steps: Sequence[str], found: Weights) -> list[work.Stage]:
    """The stages over parts that these steps stand for."""
    stages = []
    if "fetch" in steps:
        load = partial(fetch.load, archive, settings.images, {source.name: source for source in settings.sources})
        stages.append(work.Stage("fetch", "photos", ("images",), load))
    tables = settings.derived()
    for name, asked in tables.items() if "annotate" in steps else ():
        if isinstance(asked, LabelSettings | ObjectSettings) and (made := archive.table(name).identity()):
            # Where no part is missing, no worker would find that the classes or queries are others now.
            archive.table(name).claim(made | asked.identity())
    if "annotate" in steps and tables:
        from pipeline.stages import annotate

        checkpoints = {key: checkpoint and checkpoint[1] for key, checkpoint in found.items()}
        load = partial(annotate.load, archive, tables, checkpoints)
        stages.append(work.Stage("annotate", "images", tuple(tables), load, device=True))
    return stages


def fetchers(settings: Settings) -> int | None:
    """Parts to fetch at a time; None: as the CPUs allow.

    Where a host's rate is the limit, more of them would not be faster: all parts would be half done for hours, nothing
    of them annotated, and all of it lost with the run.
    """
    rate = settings.images.rate
    if settings.run.fetchers is None and rate and any(isinstance(s, FlickrSource) for s in settings.sources):
        return max(2, math.ceil(rate / PACED))
    return settings.run.fetchers


def run(
    settings: Settings,
    progress: Progress,
    steps: Sequence[str],
    *,
    retry_failed: bool = False,
    refresh: bool = False,
    update: bool = True,
) -> Summary:
    """Carry out these steps; with `refresh`, listing is following the sources in all that changed there.

    With `update`, an index that is there is added to, as long as its training suits.

    Raises UserError, before anything is written if it can be known by then.
    """
    if "list" in steps:
        for source in settings.sources:
            source.check()
    else:
        Archive.open(settings.archive)
    if "annotate" in steps and settings.derived():
        progress.say("looking for the models' weights")
    found = find_weights(settings) if "annotate" in steps else {}
    if settings.run.runner == "local":
        todo = partial(_run, settings, progress, steps, retry_failed, refresh, found)
        card, built = todo(work.run, _indexer(settings, progress, update, in_threads))
        return Summary(progress, card, built)
    progress.say("starting Ray" if "RAY_ADDRESS" not in os.environ else "connecting to Ray")
    from pipeline import cluster, nodes

    with cluster.connection():
        nodes.enough(asked=bool(settings.run.fetchers or settings.run.gpus))
        nodes.seen_from_every_node(settings.archive)
        secrets = {name: os.environ[name] for name in SECRETS if name in os.environ}
        runner = partial(cluster.run, secrets=secrets, fetchers=fetchers(settings), gpus=settings.run.gpus)
        todo = partial(_run, settings, progress, steps, retry_failed, refresh, found)
        card, built = todo(runner, _indexer(settings, progress, update, cluster.each))
        return Summary(progress, card, built)


def _run(
    settings: Settings,
    progress: Progress,
    steps: Sequence[str],
    retry_failed: bool,
    refresh: bool,
    found: Weights,
    runner: Callable[..., None],
    indexer: Callable[[Archive], tuple[dict[str, Any], bool]],
) -> tuple[dict[str, Any] | None, bool]:
    archive = Archive.create(settings.archive)
    storage.sweep(settings.archive)
    name = logs.new_run()
    with runs.recorded(archive, name, steps, refresh=refresh, runner=settings.run.runner) as record:
        store_weights(archive, found)
        if retry_failed:
            fetch.again(archive, settings.run.part_size)
        stages = stages_of(settings, archive, steps, found)
        if stages or "list" in steps:
            desk = work.Desk(archive, settings.sources, settings.run.part_size, settings.images.rate, name, refresh)
            progress.expect(pending(archive, stages, "list" in steps), desk.heard)
            _work(archive, desk, stages, progress, record, partial(runner, listing="list" in steps))
        if "index" not in steps or not settings.embeddings:
            return None, False
        try:
            card, built = indexer(archive)
        finally:
            forget.renew(archive)
        record["index"] = {"build": card["build"], "seconds": card["seconds"]} if built else None
        return card, built


def pending(archive: Archive, stages: Sequence[work.Stage], listing: bool) -> dict[str, int | None]:
    """Photos that wait for each stage; None for listing, since how many there will be is not known."""
    waiting: dict[str, int | None] = {"list": None} if listing else {}
    for stage in stages:
        parts = stage.pending(archive)
        receipts = rollup.receipts(archive, archive.table(stage.source)) if parts else {}
        waiting[stage.name] = sum(receipts[part]["rows"] for part in parts)
    return waiting


def _work(
    archive: Archive,
    desk: work.Desk,
    stages: Sequence[work.Stage],
    progress: Progress,
    record: runs.Record,
    runner: Callable[..., None],
) -> None:
    """Have the stages done, and keep what came of it: in the roll-ups, and in the run's record."""
    done: list[work.Receipt] = []

    def report(stage: str, said: work.Receipt | work.Failure) -> None:
        progress.report(stage, said)
        if not isinstance(said, work.Failure) and "part" in said:
            done.append(rollup.shortened(said))

    try:
        with logs.about(desk.run, "run"):
            runner(archive, desk, stages, report)
    finally:
        runs.add(record, done, progress.failures)
        rollup.keep(archive, done)
        forget.blank(archive)  # after a `forget` that was killed, of photos gone, or in a part that was under way


def _indexer(
    settings: Settings, progress: Progress, update: bool, each: Each
) -> Callable[[Archive], tuple[dict[str, Any], bool]]:
    """What makes the index: it is added to with `update`, and made anew where that is due."""

    def say(text: str) -> None:
        progress.say(f"index: {text}")

    def make(archive: Archive) -> tuple[dict[str, Any], bool]:
        card, built = index.build(archive, settings.index, update=update, each=each, say=say)
        if update and built and card["drift"] and card["drift"]["rebuild_due"]:
            log.info("the index is built anew: %s", card["drift"]["why"])
            card, built = index.build(archive, settings.index, each=each, say=say)
        return card, built

    return make

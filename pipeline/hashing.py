"""Perceptual hashes for the pictures that lack them, in this process."""

from functools import partial

from pipeline import logs, rollup, work
from pipeline.archive import Archive
from pipeline.photo import TryLater
from pipeline.stages.hash import TABLE, load
from pipeline.upkeep import forget


def hash_missing(archive: Archive, report: work.Report) -> None:
    """Make the parts of hashes that are missing. Raises TryLater where one was given up."""
    stage = work.Stage("hash", "images", (TABLE,), partial(load, archive))
    done: list[work.Receipt] = []
    failed: list[int] = []

    def told(name: str, said: work.Receipt | work.Failure) -> None:
        report(name, said)
        if isinstance(said, work.Failure):
            failed.append(said.part)
        else:
            done.append(rollup.shortened(said))

    desk = work.Desk(archive, [], part_size=1, rate=None, run=logs.new_run())  # nothing is listed or asked for
    try:
        work.run(archive, desk, [stage], told, listing=False)
    finally:
        rollup.keep(archive, done)
        forget.blank(archive)  # photos that were forgotten while this was under way
    if failed:
        raise TryLater(f"{TABLE} part {', '.join(map(str, failed))} was given up, see above; `tintype verify` says "
                       "what is damaged")  # fmt: skip

"""A driver killed at any moment, and run again, ends with the tables of a run that nothing disturbed."""

import multiprocessing
import os
import random
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from pipeline.archive import Archive
from pipeline.demo.server import KEY, SECRET, Served
from tests import photostream
from tests.test_run import assert_same, contents

MOMENTS = {"local": 6, "ray": 2}  # how often a driver is killed: with Ray each one starts a cluster anew

# Drivers are forked from a process that has loaded torch and the rest: ten times that would be most of the test.
drivers = multiprocessing.get_context("forkserver")
drivers.set_forkserver_preload(["tests.photostream", "open_clip"])


def drive(archive: Path, api_url: str, model: Path, runner: str) -> None:
    warnings.simplefilter("ignore")
    os.environ |= {"FLICKR_API_KEY": KEY, "FLICKR_API_SECRET": SECRET}
    photostream.carry_out(photostream.settings(str(archive), api_url, model, runner))


def begun(*arguments: object) -> Any:
    driver = drivers.Process(target=drive, args=arguments)
    driver.start()
    return driver


def finish(driver: Any) -> None:
    driver.join(300)
    assert driver.exitcode == 0


def progress(archive: Path) -> int:
    """Files that the archive holds so far, scratch included: a clock that a slow machine slows too."""
    return sum(len(names) for _, _, names in os.walk(archive))


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_killed_at_seeded_moments(tmp_path: Path, server: Served, model: Path, undisturbed: Path, runner: str) -> None:
    """At each moment, told by how much of the archive is there, a driver is killed; the last one is let finish."""
    stormy = tmp_path / "stormy"
    whole = progress(undisturbed)
    dice = random.Random(2)
    kills = 0
    moments = MOMENTS[runner]
    for moment in (dice.uniform(i, i + 1) / moments for i in range(moments)):  # one in each stretch of the run
        driver = begun(stormy, server.api_url, model, runner)
        while progress(stormy) < moment * whole and driver.is_alive():
            time.sleep(0.01)
        driver.join(dice.uniform(0, 0.2))
        if driver.is_alive():
            driver.kill()
            kills += 1
        driver.join()
    assert kills
    finish(begun(stormy, server.api_url, model, runner))
    assert_same(contents(Archive.open(str(stormy))), contents(Archive.open(str(undisturbed))))

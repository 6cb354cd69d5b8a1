"""Log lines say what they are about, whichever thread of a part writes them."""

import logging
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from pipeline import logs

SCRIPT = """
import logging
from pipeline import logs
logs.to_stderr()
logs.to_stderr()
with logs.about("20260102T030405Z-abcd", "fetch", 12):
    logging.getLogger("pipeline.x").info("one line")
logging.getLogger("pipeline.x").warning("about nothing")
logging.getLogger("somebody.else").info("not shown")
"""


def test_a_line_names_run_stage_and_part() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    one, other = done.stderr.splitlines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO run=20260102T030405Z-abcd stage=fetch part=12 one line", one
    )
    assert other.endswith("WARNING run=- stage=- part=- about nothing")


def test_the_name_of_a_run() -> None:
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", logs.new_run())
    assert logs.run() is None
    with logs.about("r", "fetch", 1):
        assert logs.run() == "r"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(copy_context().run, logs.run).result() == "r"
    assert logs.run() is None and logging.getLogger("pipeline").level == logging.NOTSET

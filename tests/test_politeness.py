"""On a cluster, too, hosts see one client: rates hold over all workers, a 429 anywhere pauses all; no key is told."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.archive import Archive
from pipeline.demo.faults import RESET, WEB_PAGE, failure, listed, status
from pipeline.demo.server import KEY, REST, SECRET, Served, serve
from pipeline.demo.stream import ALIAS, demo_stream
from pipeline.photo import UserError
from tests import photostream
from tests.test_faults import render

PHOTOS = 80
STREAM = demo_stream(PHOTOS)
WINDOW_S, API_RATE, IMAGE_RATE, WORKERS, PAUSE_S = 5.0, 1.0, 10.0, 4, 2


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)


@pytest.fixture
def served() -> Iterator[Served]:
    with serve(STREAM, render=render) as served:
        yield served


def most_in_a_window(moments: list[float]) -> int:
    return max(sum(start <= moment < start + WINDOW_S for moment in moments) for start in moments)


def test_rates_and_pauses_are_those_of_the_run(served: Served, tmp_path: Path, model: Path, ray_here: None) -> None:
    busy = next(photo for photo in STREAM.photos[40:] if not photo.trouble)
    served.plan = listed({str(busy.number): (status(429, str(PAUSE_S)), 1)})
    source = {"kind": "flickr", "user": ALIAS, "api_url": served.api_url, "api_rate": API_RATE}
    images = {"min_side": 60, "rate": IMAGE_RATE, "backoff": 0.01}
    run = {"runner": "ray", "part_size": 10, "fetchers": WORKERS}
    settings = photostream.settings(
        str(tmp_path / "archive"), served.api_url, model, "ray", sources=[source], images=images, run=run
    )
    photostream.carry_out(settings, ["list", "fetch"])

    api = [request.at for request in served.log if request.path == REST]
    pictures = [request.at for request in served.log if request.path != REST]
    assert len(api) > 5 and len(pictures) > PHOTOS * 0.8
    assert most_in_a_window(api) <= WINDOW_S * API_RATE + 1
    assert most_in_a_window(pictures) <= WINDOW_S * IMAGE_RATE + 1
    [told, *_] = [request.at for request in served.log if request.target == str(busy.number)]
    # What had its turn before the host spoke is on its way.
    assert not [moment for moment in api + pictures if told + 0.5 < moment < told + PAUSE_S]
    images_table = Archive.open(settings.archive).table("images")
    requests = [images_table.receipt(part)["requests"] for part in images_table.parts()]
    assert sum(requests) == len(pictures)


# ---- secrets

SIGNED = ("oauth_signature", "oauth_consumer_key", "Authorization: OAuth", "OAuth realm")


def test_no_secret_is_ever_told(
    served: Served, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every level of every logger, what is printed, and every byte of the archive, after a run full of faults."""
    troubled = [str(photo.number) for photo in STREAM.photos if not photo.trouble]
    faults = [status(429, "0"), status(500), RESET, WEB_PAGE]
    plan = {number: (fault, 1) for number, fault in zip(troubled, faults * 4, strict=False)}
    plan |= {"people.getPublicPhotos 1": (failure(105, f"{KEY} is not available"), 1)}
    plan |= {f"photos.getSizes {photo.number}": (WEB_PAGE, 1) for photo in STREAM.photos}
    served.plan = listed(plan)
    caplog.set_level(logging.DEBUG)
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "local")
    photostream.carry_out(settings, ["list", "fetch"])
    for refused in (failure(100, f"Invalid API Key ({KEY})"), status(401)):
        served.plan = listed({"people.getPublicPhotos 1": (refused, None)})
        with pytest.raises(UserError) as error:
            photostream.carry_out(settings, ["list"])
        assert_silent(str(error.value))
    printed = capfd.readouterr()
    assert_silent(caplog.text, printed.out, printed.err)
    for path in Path(settings.archive).rglob("*"):
        if path.is_file():
            assert_silent(path.read_bytes().decode("latin-1"))
    archive = Archive.open(settings.archive)
    for name in archive.tables():
        for part in archive.table(name).parts():
            assert_silent(str(archive.table(name).read(part).to_pylist()), str(archive.table(name).receipt(part)))


def assert_silent(*texts: str) -> None:
    for text in texts:
        assert text is not None
        assert not [word for word in (KEY, SECRET, *SIGNED) if word in text]


def test_no_secret_is_in_what_the_command_prints(served: Served, tmp_path: Path, model: Path) -> None:
    """The whole program, as people run it, with a key that is refused in words that hold it."""
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        f"archive: {tmp_path / 'archive'}\nsources: [{{kind: flickr, user: {ALIAS}, api_url: {served.api_url}}}]\n"
        "run: {runner: local}\n"
    )
    served.plan = listed({"people.getPublicPhotos 1": (failure(100, f"Invalid API Key ({KEY})"), None)})
    command = [sys.executable, "-m", "pipeline.cli", "list", str(conf)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.returncode == 2 and "FLICKR_API_KEY" in done.stderr
    assert_silent(done.stdout, done.stderr)

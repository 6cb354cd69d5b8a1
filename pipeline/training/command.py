"""The command `tintype train`."""

import json
import uuid

import typer

from pipeline import config, storage
from pipeline.console import Conf, Json, Set, err, out
from pipeline.photo import UserError
from pipeline.training.settings import TrainSettings

HISTORY, MODEL, PICTURE = "history.json", "model", "training.png"


def train_command(
    conf: Conf,
    as_json: Json = False,
    overrides: Set = [],  # noqa: B006 - typer copies it
) -> None:
    """Train a model, from nothing or from other weights; run again to go on where it was stopped."""
    asked = config.validated(TrainSettings, config.given(conf, overrides), conf)
    check_writable(asked.out)
    from pipeline.training import launch
    from pipeline.training.view import View, judgement, picture

    try:
        with View(asked, err) as view:
            if asked.runner == "local":
                launch.here(asked, view.hear)
            else:
                from pipeline import cluster

                view.say("starting Ray")
                with cluster.connection():
                    launch.on_ray(asked, view.hear)
    except KeyboardInterrupt:
        err.print("stopped; run the same command again to go on from the last checkpoint", highlight=False)
        raise typer.Exit(130) from None
    said = json.loads(storage.read(storage.join(asked.out, HISTORY)))
    storage.replace(storage.join(asked.out, PICTURE), picture(said["history"]))
    if as_json:
        print(json.dumps(said))
        return
    first = next(line for line in said["history"] if "recall@1" in line)
    out.print(f"at the start: {judgement(first)}", highlight=False)
    best = said["best"]
    kept = (
        f"kept, of step {best['step']:,}: {judgement(best)}" if best["step"] else "kept: the start, no step was better"
    )
    out.print(kept, highlight=False)
    out.print(f"model: local-dir:{storage.join(asked.out, MODEL)}", highlight=False, soft_wrap=True)


def check_writable(folder: str) -> None:
    """Raises UserError where nothing can be put into a folder: nobody shall wait for what can then not be written."""
    probe = storage.join(folder, f".probe-{uuid.uuid4().hex}")
    try:
        storage.replace(probe, b"")
    except OSError as error:
        if error.errno in storage.FULL:
            raise
        raise UserError(f"out: {folder} cannot be written ({error.strerror or error}): name another folder") from error
    storage.delete(probe)

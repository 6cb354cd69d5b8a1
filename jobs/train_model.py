"""Train the demo's CoCa: python -m jobs.train_model --minutes 90"""

import time
from pathlib import Path
from typing import Annotated

import typer

from pipeline.training.coca import train


def main(
    out: Annotated[Path, typer.Option(help="Folder with open_clip_config.json; the weights are written here.")] = Path(
        "pipeline/demo/model"
    ),
    work: Annotated[Path, typer.Option(help="For the drawn pictures and the checkpoint.")] = Path("build/training"),
    minutes: Annotated[float, typer.Option(help="Minutes of training, those before --resume included.")] = 90.0,
    seed: int = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in WORK.")] = False,
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    train(out, work, minutes, seed, resume, log=lambda line: print(time.strftime("%H:%M:%S"), line, flush=True))


if __name__ == "__main__":
    typer.run(main)

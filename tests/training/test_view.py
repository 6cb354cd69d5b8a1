"""What a training says while it goes on."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.training import view
from tests.training import tiny


@pytest.mark.parametrize("terminal", [True, False])
def test_a_training_that_goes_back_to_its_checkpoint_is_still_shown(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost worker's steps come again: the rate looks back at none of before."""
    monkeypatch.setattr(view, "PLAIN_S", 0.0)
    monkeypatch.setattr(view, "LOOKS_A_SECOND", float("inf"))
    file = io.StringIO()
    asked = tiny.settings(Path("out"), Path("model"), steps=20)
    with view.View(asked, Console(file=file, force_terminal=terminal, width=100)) as shown:
        for step in (6, 7, 8, 6, 6, 7):
            shown.hear({"step": step, "loss": 1.0, "contrastive": 1.0})
    assert "step 7 of 20" in file.getvalue() and "/s" in file.getvalue()
    assert "-" not in file.getvalue().replace("\x1b", "")


def test_pictures_that_must_be_made_first_are_counted() -> None:
    file = io.StringIO()
    with view.View(tiny.settings(Path("out"), Path("model")), Console(file=file, width=100)) as shown:
        shown.hear({"pictures": 3000, "of": 45000})
    assert "3,000 of 45,000" in file.getvalue()

import hashlib
import os
import shutil
from pathlib import Path

import fsspec
import huggingface_hub
import pytest

from pipeline.models import settings, weights
from pipeline.photo import UserError


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_brings_its_weights(folder: Path) -> None:
    path, digest = weights.checkpoint(f"local-dir:{folder}", None)
    assert path == folder / "open_clip_model.safetensors"
    assert digest == sha256(path)


def test_a_folder_with_several_files_gives_what_openclip_prefers(folder: Path, tmp_path: Path) -> None:
    several = Path(shutil.copytree(folder, tmp_path / "several"))
    (several / "a_first.safetensors").write_bytes(b"")
    (several / "open_clip_pytorch_model.bin").write_bytes(b"")
    assert weights.checkpoint(f"local-dir:{several}", None)[0].name == "open_clip_model.safetensors"


def test_a_checkpoint_is_a_path_or_a_url(
    folder: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = folder / "open_clip_model.safetensors"
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/store/tiny.safetensors", file.read_bytes())

    assert weights.checkpoint(tiny, str(file))[0] == file
    assert weights.checkpoint(tiny, f"file://{file}")[0] == file
    fetched, digest = weights.checkpoint(tiny, "memory://store/tiny.safetensors")
    assert digest == sha256(file)
    assert fetched.is_relative_to(tmp_path)

    os.utime(fetched, (1, 1))
    assert weights.checkpoint(tiny, "memory://store/tiny.safetensors")[0].stat().st_mtime == 1  # not fetched again
    memory.pipe_file("/store/tiny.safetensors", b"another")
    assert weights.checkpoint(tiny, "memory://store/tiny.safetensors")[1] == hashlib.sha256(b"another").hexdigest()


@pytest.mark.parametrize(
    ("model", "pretrained", "says"),
    [
        ("ViT-B32", "laion2b_s34b_b79k", "did you mean ViT-B-32"),
        ("ViT-B-32", "laion2b_s34b", "did you mean laion2b_s34b_b79k"),
        ("ViT-B-32", "no/such/file.pt", "no such file"),
        ("ViT-B-32", None, "would be random weights"),
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
        ("ViT-B-32", "file:///no/such/file.pt", "no checkpoint"),
        ("ViT-B-32", "memory://no/such/file.pt", "cannot be fetched"),
        ("ViT-B-32", "nosuch://file.pt", "nosuch"),
        ("local-dir:/no/such/folder", None, "open_clip_config.json"),
        ("local-dir:/no/such/folder", "laion2b_s34b_b79k", "brings its own weights"),
    ],
)
def test_wrong_names_say_what_is_right(model: str, pretrained: str | None, says: str) -> None:
    with pytest.raises(UserError) as error:
        weights.checkpoint(model, pretrained)
    assert says in one_line(error)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match="no weights"):
        weights.checkpoint(f"local-dir:{tmp_path}", None)


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize(
    ("model", "pretrained", "remedy"),
    [
        ("coca_ViT-L-14", "mscoco_finetuned_laion2b_s13b_b90k", "pretrained: /path/to/the/checkpoint"),
        ("hf-hub:someone/some-model", None, "model: local-dir:"),
    ],
)
def test_without_a_network_one_line_says_what_to_do(
    hub: Path,
    model: str,
    pretrained: str | None,
    remedy: str,
    offline: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError) as error:
        weights.checkpoint(model, pretrained)
    line = one_line(error)
    assert model in line and remedy in line and "open_clip_pytorch_model.bin" in line
    assert ("HF_HUB_OFFLINE is set" in line) == offline
    assert "".join(capfd.readouterr()) == ""


def test_what_the_hubs_cache_holds_needs_no_network(hub: Path, folder: Path) -> None:
    repository = hub / "models--someone--some-model"
    shutil.copytree(folder, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    path, digest = weights.checkpoint("hf-hub:someone/some-model", None)
    assert digest == sha256(folder / "open_clip_model.safetensors")
    assert (path.parent / "open_clip_config.json").is_file()


def test_names_in_an_identity_hold_no_paths() -> None:
    assert weights.portable("local-dir:/data/models/tiny/") == "local-dir:tiny"
    assert weights.portable("s3://bucket/deep/model.safetensors") == "model.safetensors"
    assert weights.portable("hf-hub:someone/some-model") == "hf-hub:someone/some-model"


def test_every_licence_is_of_weights_that_exist() -> None:
    for model, tag in settings.LICENSES:
        if model.removeprefix("google/") in settings.OWL:
            continue  # on the hub, of which no library holds a list
        assert weights.is_tag(model, tag)
    assert all(weights.is_tag(model, tag) for model, tag in settings.CAPTIONS_ONLY if tag)

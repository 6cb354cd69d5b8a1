import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from pipeline.models import openclip, passes
from pipeline.models.openclip import Model
from pipeline.models.settings import EmbeddingSettings
from pipeline.photo import UserError
from tests.models import make_golden
from tests.models.conftest import PREPROCESSING, pixels, write_folder

TEXTS = ["a red sailboat at sea", "a steam train"]


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return openclip.load(f"local-dir:{folder}", None, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def reference(folder: Path) -> tuple[Any, Any, Any]:
    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return net.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


def unit(vectors: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vectors, dim=-1).detach().numpy()


def test_vectors_are_openclips_own(model: Model, reference: tuple[Any, Any, Any]) -> None:
    net, preprocess, tokenizer = reference
    noise = np.random.default_rng(3).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    picture = model.preprocess(Image.fromarray(noise))
    assert picture.shape == (model.side, model.side, 3) and picture.dtype == np.uint8

    images = pixels(5)
    images[0] = picture
    prepared = torch.stack([preprocess(Image.fromarray(image)) for image in (noise, *images[1:])])
    vectors = model.embed_images(images)
    np.testing.assert_allclose(vectors, unit(net.encode_image(prepared)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors.shape == (5, model.dim) and vectors.dtype == np.float32
    np.testing.assert_allclose(model.embed_texts(TEXTS), unit(net.encode_text(tokenizer(TEXTS))), atol=1e-5)


def test_a_plain_clip_computes_no_more_than_its_words(tmp_path: Path) -> None:
    vision = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49_408, "width": 32, "heads": 2, "layers": 2}
    path = tmp_path / "tiny-clip.json"
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    model = openclip.load("tiny-clip", "random", precision="fp32")
    texts = [*TEXTS, "", "word " * 100]
    for some in (texts, texts[:2], texts[2:3]):
        ours = model.embed_texts(some)
        np.testing.assert_allclose(ours, unit(model.net.encode_text(model.tokenizer(some))), atol=1e-6)
    assert openclip._ends_with_its_words(model.net)
    seen = []
    model.net.transformer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    model.embed_texts(TEXTS)
    assert seen == [8]  # of 77


def test_identity_says_what_vectors_depend_on(model: Model, folder: Path, tmp_path: Path) -> None:
    identity = model.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["preprocessing"].items() >= PREPROCESSING.items()
    assert identity["dim"] == 16

    copied = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    assert openclip.load(f"local-dir:{copied}", None).identity() == identity
    other = write_folder(tmp_path / "other" / folder.name, seed=8)
    changed = openclip.load(f"local-dir:{other}", None).identity()
    assert [key for key in identity if identity[key] != changed[key]] == ["checkpoint_sha256"]


def test_a_checkpoint_file_serves_a_plain_name(model: Model, folder: Path, tiny: str) -> None:
    named = openclip.load(tiny, str(folder / "open_clip_model.safetensors"), precision="fp32")
    # Not embed_images: a file does not say how its pictures are to be normalised.
    pictures = torch.from_numpy(make_golden.pictures(2))
    torch.testing.assert_close(named.net.encode_image(pictures), model.net.encode_image(pictures), atol=1e-5, rtol=0)
    assert named.identity()["checkpoint_sha256"] == model.identity()["checkpoint_sha256"]
    assert named.identity()["pretrained"] == "open_clip_model.safetensors"


def test_random_weights_are_asked_for_by_name_and_are_always_the_same(tiny: str) -> None:
    first, second = (openclip.load(tiny, "random", precision="fp32") for _ in range(2))
    np.testing.assert_array_equal(*(m.embed_images(pixels(2)) for m in (first, second)))
    assert first.identity()["pretrained"] == "random" and first.identity()["checkpoint_sha256"] is None
    with pytest.raises(UserError, match="random weights"):
        openclip.load(tiny, None)
    with pytest.raises(UserError, match="no model"):
        openclip.load("tiny-cocoa", "random")


def test_files_that_are_not_its_weights(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"some": torch.zeros(2)}, tmp_path / "other.pt")
    for name in ("text.pt", "other.pt"):
        with pytest.raises(UserError, match="does not hold weights of tiny-coca") as error:
            openclip.load(tiny, str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_a_folder_with_another_configuration(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match="not an OpenCLIP configuration"):
        openclip.load(f"local-dir:{broken}", None)


def test_siglip2_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"tintype\[transformers\]"):
        openclip.load("ViT-SO400M-16-SigLIP2-384", "random")


@pytest.mark.parametrize("tag", ["mscoco_finetuned_laion2b_s13b_b90k", "mscoco_finetuned_laion2B-s13B-b90k"])
def test_an_embedding_that_is_chance_is_refused(tag: str) -> None:
    with pytest.raises(UserError, match="captions only"):
        EmbeddingSettings("coca_ViT-B-32", tag)
    EmbeddingSettings("coca_ViT-L-14", tag)


def test_a_local_checkpoint_is_preprocessed_as_the_published_one() -> None:
    assert openclip._preprocessing("PE-Core-L-14-336", "/some/file.pt") == openclip._preprocessing(
        "PE-Core-L-14-336", "meta"
    )
    assert openclip._preprocessing("PE-Core-L-14-336", "meta")["mean"] == (0.5, 0.5, 0.5)


def test_out_of_memory_halves_the_batch(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = openclip.load(f"local-dir:{folder}", None, precision="fp32")
    pictures = pixels(11)
    undisturbed = model.embed_images(pictures)
    rows: list[int] = []

    def hungry(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        rows.append(len(inputs[0]))
        if len(inputs[0]) > 3:
            torch.empty(1 << 50)  # more than any machine has

    model.net.visual.register_forward_pre_hook(hungry)
    model.batch = 8
    np.testing.assert_allclose(model.embed_images(pictures), undisturbed, atol=1e-5)
    assert rows == [8, 4, 2, 2, 2, 2, 2, 1]
    assert model.batch == 2 and "going on with batches of 2" in caplog.text

    model.net.visual.register_forward_pre_hook(lambda *_: torch.empty(1 << 50))
    with pytest.raises(RuntimeError, match="allocate"):
        model.embed_images(pictures[:1])


def test_texts_of_any_length_are_openclips_own(model: Model, reference: tuple[Any, Any, Any]) -> None:
    net, _, tokenizer = reference
    texts = ["", "!", "a b", "! !", "one ! two", "!! !!! b", "word " * 30, "word " * 60, "word " * 100]
    for some in ([texts[0]], texts[:5], texts, texts[-1:]):
        np.testing.assert_allclose(model.embed_texts(some), unit(net.encode_text(tokenizer(some))), atol=1e-5)


def test_the_batch_is_found_by_trial(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that is no busy machine's."""
    model = openclip.load(f"local-dir:{folder}", None, precision="fp32")
    seconds, clock = {32: 0.04, 64: 0.06, 128: 0.09, 256: 0.3}, [0.0]
    monkeypatch.setattr(passes, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def slow(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        clock[0] += seconds[len(inputs[0])]

    model.net.visual.register_forward_pre_hook(slow)
    model.find_batch()
    assert model.batch == 128

    def hungry(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 64:
            torch.empty(1 << 50)  # more than any machine has

    model.net.visual.register_forward_pre_hook(hungry)
    model.find_batch()
    assert model.batch == 64


def test_other_errors_are_not_taken_for_want_of_memory(model: Model) -> None:
    with pytest.raises(RuntimeError):
        model.embed_images(np.zeros((2, 5, 7, 3), np.uint8))
    assert model.batch == 64


def test_threads_take_turns(folder: Path) -> None:
    model = openclip.load(f"local-dir:{folder}", None, precision="fp32")
    inside = threading.Semaphore(1)

    def enter(*_: Any) -> None:
        assert inside.acquire(blocking=False)

    model.net.visual.register_forward_pre_hook(enter)
    model.net.visual.register_forward_hook(lambda *_: inside.release())
    pictures = pixels(8)
    alone = model.embed_images(pictures)
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(lambda _: model.embed_images(pictures), range(16)):
            np.testing.assert_array_equal(vectors, alone)


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_lower_precision_keeps_the_direction(folder: Path, model: Model, precision: str) -> None:
    low = openclip.load(f"local-dir:{folder}", None, device="cpu", precision=precision)
    assert low.precision in ("bf16", "fp32")
    pictures = pixels()
    assert (low.embed_images(pictures) * model.embed_images(pictures)).sum(axis=1).min() >= 0.999
    assert (low.embed_texts(TEXTS) * model.embed_texts(TEXTS)).sum(axis=1).min() >= 0.999

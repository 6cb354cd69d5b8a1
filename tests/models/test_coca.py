import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from pipeline.models import coca, openclip
from pipeline.models.coca import Captioner
from pipeline.models.openclip import Model
from pipeline.photo import UserError
from tests.models import make_golden
from tests.models.conftest import END, PREPROCESSING

GOLDEN = json.loads(make_golden.GOLDEN.read_text())
SEARCH = {"beam": coca.beam, "greedy": coca.greedy}


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return openclip.load(f"local-dir:{folder}", None, device="cpu", precision="fp32")


@torch.inference_mode()
def say(net: open_clip.CoCa, kind: str, pictures: np.ndarray, batch: int) -> list[list[int]]:
    said = []
    for part in torch.from_numpy(pictures).split(batch):
        _, image_tokens = net.visual(part)
        said += SEARCH[kind](net, image_tokens, make_golden.START, make_golden.END)
    return said


@pytest.mark.parametrize("kind", ["beam", "greedy"])
@pytest.mark.parametrize("case", make_golden.CASES)
def test_it_says_what_openclip_says(case: str, kind: str) -> None:
    golden = GOLDEN[case][kind]
    assert sum(golden["firm"]) >= 20
    net = make_golden.build(make_golden.CASES[case])
    for batch in (make_golden.PICTURES, 7):
        said = say(net, kind, make_golden.pictures(), batch)
        padded = [ids + [make_golden.PAD] * (len(golden["tokens"][0]) - len(ids)) for ids in said]
        for ids, expected, firm in zip(padded, golden["tokens"], golden["firm"], strict=True):
            assert ids == expected or not firm


def test_the_golden_models_meet_every_ending() -> None:
    def lengths(case: str, kind: str) -> set[int]:
        said = GOLDEN[case][kind]["tokens"]
        return {ids.index(make_golden.END) + 1 if make_golden.END in ids else len(ids) for ids in said}

    assert len(lengths("end very likely", "beam")) > 5  # captions of one batch end apart
    assert min(lengths("end very likely", "greedy")) == coca.MIN_TOKENS + 1
    assert max(lengths("plain", "beam")) == coca.MAX_TOKENS
    zeros = [0 in ids[: ids.index(make_golden.END)] for ids in GOLDEN["token 0 likely"]["beam"]["tokens"]
             if make_golden.END in ids]  # fmt: skip
    assert any(zeros)  # a word to the beam search …
    stopped = [ids.index(0) for ids in GOLDEN["token 0 likely"]["greedy"]["tokens"] if make_golden.END not in ids]
    assert any(place < coca.MAX_TOKENS - 1 for place in stopped)  # … and an end to greedy


def test_a_caption_with_its_figures(model: Model) -> None:
    pictures = make_golden.pictures(6)
    vectors, tokens = model.encode(pictures)
    assert tokens is not None
    for generation in ("beam", "greedy"):
        captions = Captioner(model, generation).caption_tokens(tokens, vectors)
        assert len({caption.text for caption in captions}) > 1
        texts = model.embed_texts([caption.text for caption in captions])
        np.testing.assert_allclose([c.cosine for c in captions], (texts * vectors).sum(axis=1), atol=1e-5)
        for caption in captions:
            assert caption.text == caption.text.strip() and "_of_text>" not in caption.text


def test_logprobs_are_those_of_open_clips_forward(model: Model) -> None:
    pictures = torch.from_numpy(make_golden.pictures(6))
    with torch.inference_mode():
        _, tokens = model.net.visual(pictures)
        captions = coca.beam(model.net, tokens, 49_406, END)
        found = coca.logprobs(model.net, tokens, captions)
        assert len({len(ids) for ids in captions}) > 1
        for picture, ids, logprob in zip(pictures, captions, found, strict=True):
            logits = model.net(picture[None], torch.tensor([ids]))["logits"][0]
            each = logits.log_softmax(dim=-1)[range(len(ids) - 1), ids[1:]]
            assert logprob == pytest.approx(float(each.mean()), abs=1e-4)


def test_one_pass_of_the_image_tower_serves_embedding_and_caption(folder: Path) -> None:
    model = openclip.load(f"local-dir:{folder}", None, precision="fp32")
    passes: list[int] = []
    model.net.visual.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    vectors, tokens = model.encode(make_golden.pictures(6))
    assert tokens is not None
    shared = Captioner(model).caption_tokens(tokens, vectors)
    assert passes == [6]
    assert [c.text for c in Captioner(model).caption(make_golden.pictures(6))] == [c.text for c in shared]


def test_order_and_batches_do_not_matter(folder: Path) -> None:
    model = openclip.load(f"local-dir:{folder}", None, precision="fp32")
    pictures = make_golden.pictures(9)
    said = [caption.text for caption in Captioner(model).caption(pictures)]
    model.batch = 4
    assert [caption.text for caption in Captioner(model).caption(pictures[::-1].copy())] == said[::-1]


def test_identity_names_the_search(model: Model) -> None:
    beam, greedy = Captioner(model, "beam").identity(), Captioner(model, "greedy").identity()
    assert [key for key in beam if beam[key] != greedy[key]] == ["generation"]
    assert beam["checkpoint_sha256"] == model.identity()["checkpoint_sha256"]
    assert json.loads(json.dumps(beam)) == beam


def test_a_model_without_words_is_refused() -> None:
    net = open_clip.CLIP(
        16,
        {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        {"vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
    )
    open_clip.set_model_preprocess_cfg(net, {"size": 16} | PREPROCESSING)
    clip = Model(net, open_clip.SimpleTokenizer(), {"model": "tiny-clip", "pretrained": None, "dim": 16}, "cpu", "fp32")
    assert clip.encode(make_golden.pictures(2))[1] is None
    with pytest.raises(UserError, match="tiny-clip cannot write captions"):
        Captioner(clip)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a man riding a horse . ", "a man riding a horse"),
        ("a man riding a horse ", "a man riding a horse"),
        ("A photo of No. 7 ", "A photo of No. 7"),
        ("what is this ? ", "what is this ?"),
        (". ", "."),
        ("", ""),
    ],
)
def test_a_caption_loses_only_what_is_there(raw: str, clean: str) -> None:
    assert coca.clean(raw) == clean

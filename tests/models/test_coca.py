import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pipeline.models import coca, layers, openclip
from pipeline.models.coca import Captioner
from pipeline.models.decoder import Cache, Decoder
from pipeline.models.generation import MAX_TOKENS, MIN_TOKENS, RULES
from pipeline.models.openclip import Model
from pipeline.models.settings import Generation, Precision
from pipeline.models.writer import Writer, _State
from pipeline.photo import UserError
from tests.models import make_golden
from tests.models.conftest import PREPROCESSING, pixels

GOLDEN = json.loads(make_golden.GOLDEN.read_text())


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return openclip.load(f"local-dir:{folder}", None, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def reference(folder: Path) -> open_clip.CoCa:
    return open_clip.create_model(f"local-dir:{folder}").eval()


def built(case: str) -> open_clip.CoCa:
    net = make_golden.build(make_golden.CASES[case])
    layers.quicken(net)
    return net


def say(net: open_clip.CoCa, kind: str, slots: int) -> list[list[int]]:
    """The token ids of all golden pictures, written so many at a time."""
    with torch.inference_mode():
        _, tokens = net.visual(torch.from_numpy(make_golden.pictures()))
    writer = Writer(Decoder(net), RULES[kind], make_golden.START, make_golden.END, slots)
    order = [*range(1, make_golden.PICTURES), 0]
    said = dict(writer.add(order[:10], tokens[order[:10]]))
    assert len(said) >= 10 - slots  # all have been taken in
    said |= dict(writer.add(order[10:], tokens[order[10:]]))
    said |= dict(writer.finish())
    return [said[picture].ids for picture in range(make_golden.PICTURES)]


@pytest.mark.parametrize("kind", ["beam", "greedy"])
@pytest.mark.parametrize("case", make_golden.CASES)
def test_it_says_what_openclip_says(case: str, kind: str) -> None:
    golden = GOLDEN[case][kind]
    assert sum(golden["firm"]) >= 20
    net = built(case)
    for slots in (make_golden.PICTURES, 7, 1):
        said = say(net, kind, slots)
        padded = [ids + [make_golden.PAD] * (len(golden["tokens"][0]) - len(ids)) for ids in said]
        for ids, expected, firm in zip(padded, golden["tokens"], golden["firm"], strict=True):
            assert ids == expected or not firm


def test_the_golden_models_meet_every_ending() -> None:
    def lengths(case: str, kind: str) -> set[int]:
        said = GOLDEN[case][kind]["tokens"]
        return {ids.index(make_golden.END) + 1 if make_golden.END in ids else len(ids) for ids in said}

    assert len(lengths("end very likely", "beam")) > 5  # captions of one batch end apart
    assert min(lengths("end very likely", "greedy")) == MIN_TOKENS + 1
    assert max(lengths("plain", "beam")) == MAX_TOKENS
    zeros = [0 in ids[: ids.index(make_golden.END)] for ids in GOLDEN["token 0 likely"]["beam"]["tokens"]
             if make_golden.END in ids]  # fmt: skip
    assert any(zeros)  # a word to the beam search …
    stopped = [ids.index(0) for ids in GOLDEN["token 0 likely"]["greedy"]["tokens"] if make_golden.END not in ids]
    assert any(place < MAX_TOKENS - 1 for place in stopped)  # … and an end to greedy


def test_a_clean_caption_repeats_no_three_tokens() -> None:
    def runs(ids: list[int]) -> list[tuple[int, ...]]:
        return list(zip(ids, ids[1:], ids[2:], strict=False))

    net = built("plain")
    plain, cleaned = say(net, "beam", 24), say(net, "clean", 24)
    assert any(len(set(runs(ids))) < len(runs(ids)) for ids in plain)
    assert all(len(set(runs(ids))) == len(runs(ids)) for ids in cleaned)
    assert {len(ids) for ids in cleaned} == {MAX_TOKENS}
    for case in ("end very likely", "both likely"):
        net = built(case)
        cleaned = say(net, "clean", 24)
        assert cleaned == say(net, "clean", 5)
        assert len({len(ids) for ids in cleaned}) > 3 and min(map(len, cleaned)) == MIN_TOKENS + 1


def test_a_caption_with_its_figures(model: Model) -> None:
    pictures = pixels(6)
    vectors, tokens = model.encode(pictures)
    assert tokens is not None
    for generation in ("beam", "greedy", "clean"):
        captions = Captioner(model, generation).caption_tokens(tokens, vectors)
        assert len({caption.text for caption in captions}) > (generation != "clean")
        texts = model.embed_texts([caption.text for caption in captions])
        np.testing.assert_allclose([c.cosine for c in captions], (texts * vectors).sum(axis=1), atol=1e-5)
        for caption in captions:
            assert caption.text == caption.text.strip() and "_of_text>" not in caption.text


@pytest.mark.parametrize("kind", ["beam", "greedy", "clean"])
def test_logprobs_are_those_of_open_clips_forward(model: Model, reference: open_clip.CoCa, kind: Generation) -> None:
    pictures = torch.from_numpy(make_golden.pictures(6))
    with torch.inference_mode():
        _, tokens = model.net.visual(pictures)
        writer = coca.writer(model, kind)
        written = dict(writer.add(range(6), tokens) + writer.finish())
        assert len({len(w.ids) for w in written.values()}) > 1
        for picture, w in ((pictures[key], w) for key, w in written.items()):
            logits = reference(picture[None], torch.tensor([w.ids]))["logits"][0]
            each = logits.log_softmax(dim=-1)[range(len(w.ids) - 1), w.ids[1:]]
            if kind == "greedy" and len(w.ids) == MAX_TOKENS:
                each = each[:-1]  # the end was not the model's choice
            assert w.logprob == pytest.approx(float(each.mean()), abs=1e-4)


def test_one_pass_of_the_image_tower_serves_embedding_and_caption(folder: Path) -> None:
    model = openclip.load(f"local-dir:{folder}", None, precision="fp32")
    passes: list[int] = []
    model.net.visual.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    vectors, tokens = model.encode(pixels(6))
    assert tokens is not None
    shared = Captioner(model).caption_tokens(tokens, vectors)
    assert passes == [6]
    assert [c.text for c in Captioner(model).caption(pixels(6))] == [c.text for c in shared]


def test_a_stream_of_pictures(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, tokens = model.encode(pixels(13))
    assert tokens is not None
    alone = Captioner(model).caption_tokens(tokens, vectors)
    monkeypatch.setattr(coca, "ROWS", {"cpu": 6})  # three pictures of two beams
    captioner = Captioner(model)
    batches = [range(first, min(first + 4, 13)) for first in range(0, 13, 4)]
    ended = [captioner.add(keys, tokens[keys], vectors[keys]) for keys in batches]
    assert all(len(part) >= 1 for part in ended)
    said = dict(itertools.chain(*ended, captioner.finish()))
    assert [said[key].text for key in range(13)] == [caption.text for caption in alone]
    assert captioner.finish() == []


def test_what_fails_leaves_nothing_behind(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, tokens = model.encode(pixels(5))
    assert tokens is not None
    captioner = Captioner(model)
    with monkeypatch.context() as broken:
        broken.setattr(model, "embed_texts", None)
        captioner.add("ab", tokens[:2], vectors[:2])
        with pytest.raises(TypeError):
            captioner.finish()
    assert captioner.finish() == []
    captioner.add("abcde", tokens, vectors)
    with pytest.raises(RuntimeError):
        captioner.add("f", tokens[:1, :, :7], vectors[:1])
    assert captioner.finish() == []
    assert len(captioner.caption_tokens(tokens, vectors)) == 5


def test_out_of_memory_halves_the_captions_at_a_time(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors, tokens = model.encode(pixels(9))
    assert tokens is not None
    undisturbed = Captioner(model).caption_tokens(tokens, vectors)
    captioner = Captioner(model)
    logits = Decoder.logits
    sizes = []

    def hungry(self: Decoder, cache: Cache, *given: Any) -> torch.Tensor:
        sizes.append(cache.slots)
        if cache.slots > 3:
            torch.empty(1 << 50)  # more than any machine has
        return logits(self, cache, *given)

    monkeypatch.setattr(Decoder, "logits", hungry)
    assert [c.text for c in captioner.caption_tokens(tokens, vectors)] == [c.text for c in undisturbed]
    assert sizes[:2] == [9, 4] and max(sizes[2:]) == 2
    assert "going on with 2 captions at a time" in caplog.text


@pytest.mark.parametrize("kind", RULES)
def test_a_step_on_a_gpu_asks_the_host_for_nothing(kind: str) -> None:
    # No GPU is needed: tensors that hold nothing cannot be asked, and tell their device.
    towers = make_golden.config()
    del towers["custom_text"]
    with FakeTensorMode(), torch.device("cuda"), torch.inference_mode():
        net = open_clip.CoCa(**towers)
        layers.quicken(net)
        state = _State(Decoder(net), RULES[kind], make_golden.END, 4, 5)
        state.begin(torch.zeros(2, dtype=torch.long), torch.zeros(2, 5, 16), make_golden.START)
        state.advance(MAX_TOKENS - 1)
        assert state.captions.ids.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            state.captions.done.tolist()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_writes_in_half_precision(folder: Path, precision: Precision) -> None:
    model = openclip.load(f"local-dir:{folder}", None, device="cpu", precision=precision)
    captions = Captioner(model).caption(pixels(5))
    assert all(np.isfinite(caption.logprob) for caption in captions)


def test_order_and_batches_do_not_matter(folder: Path) -> None:
    model = openclip.load(f"local-dir:{folder}", None, precision="fp32")
    pictures = pixels(9)
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
    assert clip.encode(pixels(2))[1] is None
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

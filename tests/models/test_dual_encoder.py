"""The textbook's dual encoder: its formula, its folder, its towers, and an archive that is searched with it."""

import copy
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch.nn.functional import gelu, layer_norm, linear
from transformers import AutoModel, BertConfig, BertForMaskedLM, DistilBertConfig

from pipeline import builds, search
from pipeline.archive import Archive
from pipeline.models import dual_encoder, openclip, store, weights
from pipeline.models.dual_encoder import DualEncoder
from pipeline.models.openclip import Model
from pipeline.photo import UserError
from tests import photostream, small_archive

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "red", "blue", "green", "sailboat", "steam", "train", "tent", "hill", "at", "sea", "on", "the"]
TEXTS = ["a red sailboat at sea", "a steam train", "", "the blue tent on the green hill"]
Untrained = tuple[DualEncoder, Any, dict[str, Any]]
VISION, SIDE = "test_resnet", 32  # timm's smallest ResNet


def write_text_tower(folder: Path, *, trained: bool) -> Path:
    """A tiny DistilBERT in transformers' form."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS))
    sizes = {"vocab_size": len(SPECIAL + WORDS), "dim": 32, "n_heads": 2, "n_layers": 2, "hidden_dim": 64}
    config = DistilBertConfig(**sizes, initializer_range=0.2)  # so large that texts of random weights differ
    config.save_pretrained(folder)
    if trained:
        torch.manual_seed(1)
        tower = AutoModel.from_config(config)
        # As one that was trained to guess words: with a prefix, and with what guesses.
        held = {f"distilbert.{name}": value for name, value in tower.state_dict().items()}
        held |= {"vocab_projector.bias": torch.zeros(len(SPECIAL + WORDS))}
        safetensors.torch.save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def text_tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_tower(tmp_path_factory.mktemp("towers") / "tiny-bert", trained=True)


@pytest.fixture(scope="module")
def image_tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ResNet in timm's form, classifier included."""
    folder = tmp_path_factory.mktemp("towers") / "tiny-resnet"
    folder.mkdir()
    torch.manual_seed(2)
    safetensors.torch.save_file(timm.create_model(VISION).state_dict(), folder / "model.safetensors")
    about = {"input_size": [3, SIDE, SIDE], "mean": [0.4, 0.5, 0.6], "interpolation": "bicubic"}
    (folder / "config.json").write_text(
        json.dumps({"architecture": VISION, "num_classes": 1000, "pretrained_cfg": about})
    )
    return folder


def save(net: DualEncoder, tokenizer: Any, folder: Path) -> Path:
    folder.mkdir(parents=True)
    safetensors.torch.save_file(net.state_dict(), folder / "open_clip_model.safetensors")
    dual_encoder.save_beside(net, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def untrained(image_tower: Path, text_tower: Path) -> Untrained:
    """Nobody changes it."""
    return openclip.network(f"dual-encoder:{image_tower}+{text_tower}", None, None)


@pytest.fixture(scope="module")
def saved(untrained: Untrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder. Its BatchNorms have seen pictures, and its heads' norms are not what they began with."""
    net, tokenizer = copy.deepcopy(untrained[0]), untrained[1]
    torch.manual_seed(3)
    net.train().encode_image(torch.randn(16, 3, SIDE, SIDE))
    for head in (net.visual.head, net.text.head):
        torch.nn.init.normal_(head.norm.bias)
        torch.nn.init.normal_(head.norm.weight)
    return save(net, tokenizer, tmp_path_factory.mktemp("saved") / "dual")


@pytest.fixture(scope="module")
def model(saved: Path) -> Model:
    return openclip.load(f"local-dir:{saved}", None, device="cpu", precision="fp32")


def pictures(n: int) -> np.ndarray:
    """uint8[n, SIDE, SIDE, 3], of a colour each, with noise."""
    numbers = np.random.default_rng(5)
    noise = numbers.integers(0, 100, (n, SIDE, SIDE, 3), dtype=np.uint8)
    return noise + numbers.integers(0, 156, (n, 1, 1, 3), dtype=np.uint8)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_head_is_the_textbooks(model: Model) -> None:
    head, x = model.net.visual.head, torch.randn(3, 96)
    given = {name: value.double() for name, value in head.state_dict().items()}
    projected = linear(x.double(), given["project.weight"], given["project.bias"])
    y = gelu(projected)
    y = linear(y, given["linear.weight"], given["linear.bias"])
    y = y + projected
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    y = y * given["norm.weight"] + given["norm.bias"]
    torch.testing.assert_close(head(x), y.float(), atol=1e-5, rtol=1e-5)


def test_dropout_is_before_the_sum(untrained: Untrained) -> None:
    head, x = dual_encoder.Head(96, 256, 1.0).train(), torch.randn(3, 96)
    torch.testing.assert_close(head(x), layer_norm(head.project(x), (256,)))
    assert untrained[0].visual.head.dropout.p == untrained[0].text.head.dropout.p == 0.1


def test_a_texts_vector_is_of_its_first_token(model: Model) -> None:
    text, ids = model.net.text, model.tokenizer(TEXTS)
    assert ids.shape == (len(TEXTS), 200) and set(ids[:, 0].tolist()) == {SPECIAL.index("[CLS]")}
    alone = [text.trunk(input_ids=row[row != 0][None]).last_hidden_state[0] for row in ids]
    expected = text.head(torch.stack([states[0] for states in alone]))
    torch.testing.assert_close(model.net.encode_text(ids), expected, atol=1e-5, rtol=1e-5)


def test_padding_changes_no_vector(model: Model) -> None:
    texts = [*TEXTS, "a [PAD] red tent"]  # which a tokenizer takes for its own
    together = model.embed_texts(texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(model.embed_texts([text])[0], vector, atol=1e-6)
    long = model.embed_texts([*texts, "the sea " * 300])
    np.testing.assert_allclose(long[:-1], together, atol=1e-6)


def test_what_is_saved_gives_the_same_vectors(saved: Path, model: Model, tmp_path: Path) -> None:
    images, texts = model.embed_images(pictures(5)), model.embed_texts(TEXTS)
    assert images.shape == (5, 256) and texts.shape == (4, 256)
    assert np.abs(images @ images.T - 1).max() > 0.01 and np.abs(texts @ texts.T - 1).max() > 0.01
    moved = shutil.copytree(saved, tmp_path / "elsewhere" / saved.name)
    again = openclip.load(f"local-dir:{moved}", None, device="cpu", precision="fp32")
    np.testing.assert_array_equal(again.embed_images(pictures(5)), images)
    np.testing.assert_array_equal(again.embed_texts(TEXTS), texts)
    assert again.identity() == model.identity()
    assert str(saved.parent) not in json.dumps(model.identity())
    assert model.identity()["preprocessing"].items() >= {"mean": [0.4, 0.5, 0.6], "resize_mode": "squash"}.items()
    resaved = save(again.net.float(), again.tokenizer, tmp_path / "again" / "dual")
    for name in ("open_clip_config.json", "config.json", "tokenizer_config.json"):
        assert json.loads((resaved / name).read_text()) == json.loads((saved / name).read_text())


def test_towers_bring_their_weights(untrained: Untrained, image_tower: Path, text_tower: Path) -> None:
    net, tokenizer, config = untrained
    given = safetensors.torch.load_file(image_tower / "model.safetensors")
    for name, value in net.visual.trunk.state_dict().items():
        torch.testing.assert_close(value, given[name], atol=0, rtol=0)
    given = safetensors.torch.load_file(text_tower / "model.safetensors")
    for name, value in net.text.trunk.state_dict().items():
        torch.testing.assert_close(value, given[f"distilbert.{name}"], atol=0, rtol=0)
    assert config["vision_cfg"] == {"timm_model_name": VISION, "image_size": SIDE}
    assert config["text_cfg"]["hf_model_name"] == "tiny-bert" and tokenizer.context_length == 200


def test_a_file_is_of_a_resnet_50(
    image_tower: Path, text_tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(shutil.copy(image_tower / "model.safetensors", tmp_path / "resnet.safetensors"))
    with pytest.raises(UserError, match="does not hold weights of resnet50") as error:
        openclip.network(f"dual-encoder:{file}+{text_tower}", None, None)
    one_line(error)
    monkeypatch.setattr(dual_encoder, "FILE_IS", VISION)
    net, _, config = openclip.network(f"dual-encoder:{file}+{text_tower}", None, None)
    given = safetensors.torch.load_file(file)
    torch.testing.assert_close(net.visual.trunk.state_dict(), {n: given[n] for n in net.visual.trunk.state_dict()})
    assert config["vision_cfg"]["image_size"] == 160


def test_random_towers_need_no_weights_and_are_always_the_same(tmp_path: Path) -> None:
    folder = write_text_tower(tmp_path / "bert", trained=False)
    model = f"dual-encoder:{VISION}+{folder}"
    first, second = (openclip.network(model, "random", None)[0].state_dict() for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    with pytest.raises(UserError, match="leave out pretrained"):
        openclip.network(model, "laion2b", None)
    with pytest.raises(UserError, match="untrained"):
        openclip.load(model, "random")


def test_a_tower_alone_is_the_whole_models(saved: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []
    create = openclip._create
    monkeypatch.setattr(openclip, "_create", lambda *given: devices.append(given[-1]) or create(*given))
    path = saved / "open_clip_model.safetensors"
    text, image = (
        openclip.load(f"local-dir:{saved}", None, device="cpu", precision="fp32", path=path, tower=tower)
        for tower in ("text", "image")
    )
    assert devices == ["meta", "meta"]  # the other tower was never in memory
    np.testing.assert_array_equal(text.embed_texts(TEXTS), model.embed_texts(TEXTS))
    np.testing.assert_array_equal(image.embed_images(pictures(3)), model.embed_images(pictures(3)))
    assert text.identity() == image.identity() == model.identity()
    names = [{name.partition(".")[0] for name in m.net.state_dict()} for m in (text, image)]
    assert names == [{"text", "logit_scale"}, {"visual", "logit_scale"}]


def test_a_bert_is_trained_in_all_its_parts_and_may_lack_its_pooler(
    text_tower: Path, image_tower: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bert"
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=len(SPECIAL + WORDS), **sizes)).save_pretrained(folder)
    shutil.copy(text_tower / "vocab.txt", folder)
    net, tokenizer, _ = openclip.network(f"dual-encoder:{image_tower}+{folder}", None, None)
    net.encode_text(tokenizer(TEXTS)).square().sum().backward()
    assert all(weights.grad is not None for weights in net.text.parameters())
    saved = save(net, tokenizer, tmp_path / "saved")
    whole, text = (
        openclip.load(f"local-dir:{saved}", None, device="cpu", precision="fp32", path=path, tower=tower)
        for path, tower in ((None, None), (saved / "open_clip_model.safetensors", "text"))
    )
    np.testing.assert_array_equal(text.embed_texts(TEXTS), whole.embed_texts(TEXTS))


def test_bf16_says_nearly_the_same(saved: Path, model: Model) -> None:
    half = openclip.load(f"local-dir:{saved}", None, device="cpu", precision="bf16")
    assert (half.embed_images(pictures(5)) * model.embed_images(pictures(5))).sum(1).min() > 0.999
    assert (half.embed_texts(TEXTS) * model.embed_texts(TEXTS)).sum(1).min() > 0.999


def test_checkpointing_computes_again_and_gives_the_same_gradients(saved: Path) -> None:
    net, tokenizer, _ = openclip.network(f"local-dir:{saved}", None, saved / "open_clip_model.safetensors")
    passes: list[str] = []
    net.text.trunk.transformer.layer[0].ffn.register_forward_hook(lambda *_: passes.append("text"))
    net.visual.trunk.layer1[0].conv1.register_forward_hook(lambda *_: passes.append("image"))

    def gradients() -> dict[str, torch.Tensor]:
        net.zero_grad()
        torch.manual_seed(0)  # of dropout
        images, texts, scale = net(torch.ones(4, 3, SIDE, SIDE).cumsum(-1) / SIDE, tokenizer(TEXTS))
        (images * texts).sum().mul(scale).backward()
        return {name: value.grad.clone() for name, value in net.named_parameters()}

    net.train()
    plain = gradients()
    assert sorted(passes) == ["image", "text"]
    net.set_grad_checkpointing(True)
    torch.testing.assert_close(gradients(), plain)
    assert sorted(passes[2:]) == ["image", "image", "text", "text"]
    net.set_grad_checkpointing(False)
    torch.testing.assert_close(gradients(), plain)
    assert len(passes) == 8


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where the hub should be, nothing that answers: whoever has asked stands in its queue."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        yield listener


def test_an_archive_is_annotated_and_searched_by_what_it_holds(
    saved: Path, model: Model, tmp_path: Path, silent_hub: socket.socket
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "dual"))
    url = str(tmp_path / "archive")
    small_archive.add_pictures(Archive.create(url), 0, [small_archive.photo(f"flickr:{n}") for n in range(6)])
    embeddings = {"dual": {"model": f"local-dir:{folder}", "precision": "fp32"}}
    settings = photostream.settings(url, "", folder, "local", embeddings=embeddings, captions={})
    assert photostream.carry_out(settings, ["annotate", "index"]).exit_status(0) == 0
    shutil.rmtree(folder)

    build = builds.open_build(url)
    made = build.card["identity"]
    whole, text = (
        store.load(url, made["model"], made["pretrained"], made["checkpoint_sha256"], precision="fp32", tower=tower)
        for tower in (None, "text")
    )
    np.testing.assert_array_equal(text.embed_texts(TEXTS), model.embed_texts(TEXTS))
    np.testing.assert_array_equal(whole.embed_images(pictures(2)), model.embed_images(pictures(2)))
    answer = search.search(build, search.Query(text=TEXTS[0], k=6), lambda: text)
    scores = [hit.score for hit in answer.hits]
    rows = Archive.open(url).table("embeddings/dual").read(0, ["embedding"])["embedding"].to_pylist()
    cosines = np.float32(rows) @ model.embed_texts(TEXTS[:1])[0]
    assert scores == pytest.approx(sorted(cosines.tolist(), reverse=True), abs=1e-3)
    assert scores[0] > scores[-1]
    with pytest.raises(BlockingIOError):
        silent_hub.accept()  # nobody asked


@pytest.mark.parametrize("pretrained", [None, "random"])
def test_towers_that_cannot_be_had_say_what_to_fetch(hub: Path, pretrained: str | None) -> None:
    with pytest.raises(UserError) as error:
        openclip.network("dual-encoder:resnet50+distilbert-base-uncased", pretrained, None)
    line = one_line(error)
    assert "distilbert-base-uncased" in line and "tokenizer.json" in line and "config.json" in line
    assert "dual-encoder:VISION+/path/to/the/folder" in line and "no connection" in line
    assert ("timm/resnet50.a1_in1k" in line and "model.safetensors" in line) == (pretrained is None)


def test_towers_in_the_hubs_cache_need_no_network(
    hub: Path, image_tower: Path, text_tower: Path, untrained: Untrained
) -> None:
    for repository, folder in (("timm/test_resnet.r160_in1k", image_tower), ("tiny/bert", text_tower)):
        kept = hub / f"models--{repository.replace('/', '--')}"
        shutil.copytree(folder, kept / "snapshots" / "abc")
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text("abc")
    _, tokenizer, _ = untrained
    tokenizer.save_pretrained(hub / "models--tiny--bert" / "snapshots" / "abc")
    net, _, config = openclip.network(f"dual-encoder:{VISION}+tiny/bert", None, None)
    torch.testing.assert_close(net.text.trunk.state_dict(), untrained[0].text.trunk.state_dict(), atol=0, rtol=0)
    torch.testing.assert_close(net.visual.trunk.state_dict(), untrained[0].visual.trunk.state_dict(), atol=0, rtol=0)
    assert config["text_cfg"]["hf_tokenizer_name"] == "tiny/bert"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("dual-encoder:resnet50", "named by its towers"),
        ("dual-encoder:resnet5000+{text}", "timm has no network 'resnet5000'"),
        ("dual-encoder:resnet50.nonsense+{text}", "timm has no network 'resnet50.nonsense'"),
        ("dual-encoder:{text}+{text}", "does not name a network of timm's"),
        ("dual-encoder:{image}+{image}", "no configuration of a text tower"),
        ("dual-encoder:{image}+{wordless}", "no tokenizer's files"),
        ("dual-encoder:{image}+{weightless}", "does not hold a text tower"),
        ("dual-encoder:{image}+{other}", "they lack"),
    ],
)
def test_wrong_towers_say_what_is_wrong(
    model: str, says: str, image_tower: Path, text_tower: Path, tmp_path: Path
) -> None:
    weightless = write_text_tower(tmp_path / "weightless", trained=False)
    wordless = Path(shutil.copytree(text_tower, tmp_path / "wordless"))
    (wordless / "vocab.txt").unlink()
    other = Path(shutil.copytree(text_tower, tmp_path / "other"))
    held = {"some": torch.zeros(2)}
    safetensors.torch.save_file(held, other / "model.safetensors", metadata={"format": "pt"})
    folders = {"text": text_tower, "image": image_tower, "wordless": wordless, "weightless": weightless, "other": other}
    with pytest.raises(UserError) as error:
        openclip.network(model.format(**folders), None, None)
    assert says in one_line(error)


def test_folders_that_lack_something(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Path(shutil.copytree(saved, tmp_path / "broken"))
    config = json.loads((broken / weights.CONFIG).read_text())
    del config["model_cfg"]["vision_cfg"]["timm_model_name"]
    (broken / weights.CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="lacks 'timm_model_name'"):
        openclip.load(f"local-dir:{broken}", None)
    shutil.copy(saved / weights.CONFIG, broken)
    (broken / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer's files"):
        openclip.load(f"local-dir:{broken}", None)
    (broken / "config.json").unlink()
    with pytest.raises(UserError, match="no configuration of a text tower"):
        openclip.load(f"local-dir:{broken}", None)
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"tintype\[transformers\]"):
        openclip.load(f"local-dir:{saved}", None)

"""Any OpenCLIP model, loaded: pictures and texts into unit vectors."""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import TextTransformer
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from pipeline.models import halves, layers, repository, settings, weights
from pipeline.models.halves import Tower
from pipeline.models.passes import DTYPES, Passes
from pipeline.models.weights import CONFIG, HUB, LOCAL_DIR, TOWERS, UNFIT
from pipeline.photo import UserError

RANDOM = "random"  # what `pretrained` says for weights made up from SEED: for tests and timing
SEED = 0


class Model(Passes):
    """A loaded OpenCLIP model.

    Attributes:
        dim: length of its vectors
    """

    def __init__(self, net: Any, tokenizer: Any, identity: dict, device: str, precision: str) -> None:
        # What cosines were multiplied with before softmax or sigmoid: in bf16 it would be off by a hundredth.
        self.logit_scale = float(net.logit_scale.detach().float().exp())
        layers.quicken(net)
        self.net = net.eval().requires_grad_(False).to(device=device, dtype=DTYPES[precision])
        self.tokenizer = tokenizer
        size = net.visual.preprocess_cfg["size"]
        super().__init__(size if isinstance(size, int) else max(size), device, precision, _cpu_batch(net.visual))
        self.dim: int = identity["dim"]
        self.is_coca = isinstance(net, open_clip.CoCa)
        self._identity = identity
        *fit, to_tensor, normalize = image_transform_v2(
            PreprocessCfg(**net.visual.preprocess_cfg), is_train=False
        ).transforms
        assert isinstance(to_tensor, ToTensor) and isinstance(normalize, Normalize)
        self._fit = Compose(fit)
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] for values in (normalize.mean, normalize.std)
        )

    def identity(self) -> dict:
        """What its vectors depend on, ready for JSON: equal identities, equal vectors (up to precision)."""
        return dict(self._identity)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """uint8[H, W, 3]: resized and cropped as OpenCLIP's validation transform of this model does it. Needs no lock.

        The rest of that transform, which makes four times as many bytes of it, is done on the device.
        """
        return np.asarray(self._fit(image))

    def encode(self, pixels: np.ndarray | torch.Tensor) -> tuple[np.ndarray, torch.Tensor | None]:
        """One pass of the image tower over uint8[n, H, W, 3] as `preprocess` or `stage` give them, n ≥ 1.

        Returns unit vectors float32[n, dim], and for a CoCa its image tokens [n, tokens, width] on the device,
        which `coca.Captioner.caption_tokens` takes; None for other models.
        """
        staged = self.stage(pixels) if isinstance(pixels, np.ndarray) else pixels
        parts = self.run(lambda rows: self._encode(staged[rows]), len(staged))
        vectors = np.concatenate([vectors for vectors, _ in parts])
        tokens = [tokens for _, tokens in parts if tokens is not None]
        return vectors, torch.cat(tokens) if tokens else None

    def _encode(self, pixels: torch.Tensor) -> tuple[np.ndarray, torch.Tensor | None]:
        batch = (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        batch = batch.to(DTYPES[self.precision])
        vectors, tokens = self.net.visual(batch) if self.is_coca else (self.net.encode_image(batch), None)
        return _unit(vectors), tokens

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        """uint8[n, H, W, 3], n ≥ 1 → unit vectors float32[n, dim]."""
        return self.encode(pixels)[0]

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """n ≥ 1 texts → unit vectors float32[n, dim]. What does not fit the model's context is cut off."""
        ids = self.tokenizer(texts)
        encode = self.net.encode_text
        if self.is_coca and _has_class_token(self.net.text):
            encode = self._encode_text
        elif _ends_with_its_words(self.net):
            encode = self._encode_words
        return np.concatenate(self.run(lambda rows: _unit(encode(ids[rows].to(self.device))), len(texts)))

    def _encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """What open_clip's CoCa gives, without computing the padding: most captions fill a sixth of the context."""
        text = self.net.text
        used = int((ids != text.pad_id).nonzero()[:, 1].max()) + 1
        # With the mask that CoCas were trained with, the class token sees the first padding token.
        x, mask = text._embeds(ids[:, : used + 1])
        x[:, -1] += (text.positional_embedding[-1] - text.positional_embedding[x.shape[1] - 1]).to(x.dtype)
        pooled = text.ln_final(text.transformer(x, attn_mask=mask)[:, -1])
        return pooled @ text.text_projection

    def _encode_words(self, ids: torch.Tensor) -> torch.Tensor:
        """What open_clip's CLIP gives, without computing what stands behind the end of the longest text: nothing before
        it sees that."""
        net, ends = self.net, ids.argmax(dim=-1)
        used = int(ends.max()) + 1
        x = net.token_embedding(ids[:, :used]) + net.positional_embedding[:used]
        x = net.ln_final(net.transformer(x, attn_mask=net.attn_mask[:used, :used]))
        return x[torch.arange(len(ids), device=x.device), ends] @ net.text_projection


def _cpu_batch(visual: Any) -> int:
    """Pictures whose tokens together fill a CPU's caches and vector units: more of them are no quicker, only later."""
    positions = getattr(visual, "positional_embedding", None)
    return max(8, min(64, 4096 // (256 if positions is None else len(positions))))


def _has_class_token(text: Any) -> bool:
    return isinstance(text, TextTransformer) and text.cls_emb is not None and text.attn_mask is not None


def _ends_with_its_words(net: Any) -> bool:
    """Whether it is a CLIP that takes its vector from the end token, which has the highest number, of a causal text."""
    plain = isinstance(net, open_clip.CLIP) and net.text_pool_type == "argmax" and net.attn_mask is not None
    return plain and isinstance(net.text_projection, torch.nn.Parameter)


def _unit(vectors: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()


def use_threads(n: int) -> None:
    """Sets the threads that torch computes with on CPU. Ray sets OMP_NUM_THREADS to an actor's num_cpus, often 1."""
    torch.set_num_threads(n)


def load(
    model: str,
    pretrained: str | None,
    *,
    device: str | None = None,
    precision: str = "auto",
    path: Path | None = None,
    tower: Tower | None = None,
    sha256: str | None = None,
) -> Model:
    """Loads a model onto `device` (None: CUDA, else MPS, else CPU).

    `path`: a copy of its weights to use instead of looking for them (a folder model's configuration lies beside it);
    `sha256`: of that file, where it is known. `tower`: the only one to load: see halves.py. Raises UserError,
    in one line, for an unknown name, for weights that cannot be had or that do not fit the model.
    """
    device = device or default_device()
    precision = default_precision(device) if precision == "auto" else precision
    path, sha256 = (path, sha256) if path and sha256 else _located(model, pretrained, path)
    in_folder = path is not None and model.startswith((LOCAL_DIR, HUB))
    net, tokenizer, config = network(model, pretrained, path, tower)
    identity: dict[str, Any] = {
        "model": weights.portable(model),
        "pretrained": pretrained
        and (settings.tag if weights.is_tag(model, pretrained) else weights.portable)(pretrained),
        "checkpoint_sha256": sha256,
        "weights_license": settings.LICENSES.get((model, settings.tag(pretrained) or "")),
        "tokenizer": {
            "class": type(tokenizer).__name__,
            "source": config["text_cfg"].get("hf_tokenizer_name"),
            "context_length": tokenizer.context_length,
        },
        "preprocessing": net.visual.preprocess_cfg,
        "dim": config["embed_dim"],
    }
    if pretrained == RANDOM:
        identity["seed"] = SEED
    if in_folder:
        identity["architecture"] = config  # a plain name stands for OpenCLIP's own; a folder brings another
    # Through JSON, so that an identity read back from a file compares equal: tuples become lists.
    loaded = Model(net, tokenizer, json.loads(json.dumps(identity)), device, precision)
    if device == "cuda" and tower != "text":
        loaded.find_batch()
    return loaded


def network(
    model: str, pretrained: str | None, path: Path | None, tower: Tower | None = None, seed: int = SEED
) -> tuple[Any, Any, dict]:
    """OpenCLIP's network on CPU in fp32, its tokenizer, and its configuration (`model_cfg`).

    The weights come from `path`; random ones for None, by `seed`. `dual-encoder:` names the towers of one that is to be
    trained: see dual_encoder.of_towers. Raises UserError as `load` does.
    """
    if model.startswith(TOWERS):
        repository.check_library(model)
        from pipeline.models import dual_encoder  # takes 6 s, and transformers

        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return dual_encoder.of_towers(model, pretrained)
    if path is None and not model.startswith(LOCAL_DIR):
        weights.check_name(model)
    # A repository of the hub, once fetched, is a folder like any other.
    in_folder = path is not None and model.startswith((LOCAL_DIR, HUB))
    source = f"{LOCAL_DIR}{path.parent}" if path is not None and in_folder else model
    try:
        config = open_clip.get_model_config(source)
        text = config["text_cfg"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{source}: {CONFIG} is not an OpenCLIP configuration ({weights.reason(error)})") from error
    if "hf_tokenizer_name" in text or "hf_model_name" in text:
        repository.check_library(model)
    net = _build(model, source, pretrained, path, tower, seed)
    if "dual_encoder" in config:
        from pipeline.models import dual_encoder

        return net, dual_encoder.read_tokenizer(Path(source.removeprefix(LOCAL_DIR)), text["context_length"]), config
    tokenizer = _tokenizer(model if "hf_tokenizer_name" in text and model.startswith(HUB) else source)
    return net, tokenizer, config


def _located(model: str, pretrained: str | None, path: Path | None) -> tuple[Path | None, str | None]:
    if pretrained == RANDOM and not model.startswith(TOWERS):
        return None, None
    return (path, weights.sha256(path)) if path else weights.checkpoint(model, pretrained)


def _build(model: str, source: str, pretrained: str | None, path: Path | None, tower: Tower | None, seed: int) -> Any:
    """The network on CPU in fp32, its weights from `path`, or random ones for None; with `tower` alone if given."""
    if path and tower:
        with contextlib.suppress(*UNFIT):  # a file that is damaged is so for the whole network too, and said below
            if half := halves.load(partial(_create, model, source, pretrained), path, tower):
                return half
    net = _create(model, source, pretrained, seed=seed)
    if path is None:
        if isinstance(net, open_clip.CoCa):  # open_clip leaves this one uninitialised
            generator = torch.Generator().manual_seed(seed)
            torch.nn.init.normal_(
                net.text_decoder.text_projection, std=net.text_decoder.width**-0.5, generator=generator
            )
    else:
        try:
            with quiet():
                open_clip.load_checkpoint(net, str(path))
        except UNFIT as error:
            raise UserError(f"{path} does not hold weights of {model} ({weights.reason(error)})") from error
    return halves.strip(net, tower) if tower else net


def _create(model: str, source: str, pretrained: str | None, device: str = "cpu", seed: int = SEED) -> Any:
    """The network with random weights, for a seed always the same."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            if "dual_encoder" in open_clip.get_model_config(source):
                from pipeline.models import dual_encoder

                return dual_encoder.create(Path(source.removeprefix(LOCAL_DIR)))
            return open_clip.create_model(
                source,
                load_weights=False,
                device=device,
                pretrained_text=False,
                force_preprocess_cfg={} if source.startswith(LOCAL_DIR) else _preprocessing(model, pretrained),
            )
        except OSError as error:  # the configuration of a Hugging Face text tower
            raise UserError(f"{model}: its text model cannot be had ({weights.reason(error)})") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps libraries that load models from talking over our own messages; open_clip writes to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _tokenizer(source: str) -> Any:
    try:
        with quiet():
            return open_clip.get_tokenizer(source)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(
            f"the tokenizer of {source} cannot be had ({weights.reason(error)}): "
            "put the model with its tokenizer files into a folder and set model: local-dir:/path/to/folder"
        ) from error


def default_device() -> str:
    """ "cuda" if there is one, else "mps", else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def default_precision(device: str) -> str:
    """What `precision: auto` means on a device: "bf16" where it is computed natively, not emulated, else "fp32"."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = device == "cpu" and {"avx512_bf16", "amx_bf16"} & {k for k, v in torch.cpu.get_capabilities().items() if v}
    return "bf16" if native else "fp32"


def _preprocessing(model: str, pretrained: str | None) -> dict:
    """Mean, deviation, interpolation and resize mode that the weights were trained with.

    A checkpoint file does not say. Where all published weights of the model agree (SigLIP2 and PE do, and differ from
    OpenCLIP's default) it is theirs, else OpenCLIP's default.
    """
    tags = [pretrained] if weights.is_tag(model, pretrained) else open_clip.list_pretrained_tags_by_model(model)
    configs = [open_clip.get_pretrained_cfg(model, tag) for tag in tags]
    found = [{key: c.get(key) for key in ("mean", "std", "interpolation", "resize_mode")} for c in configs]
    return found[0] if found and all(f == found[0] for f in found) else {}

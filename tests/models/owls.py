"""Tiny OWL-ViTs and OWLv2s with random weights, in the transformers library's folder format, and their tokenizer."""

import json
import string
from pathlib import Path

import torch
import transformers

SIDE, PATCH, CONTEXT = 64, 8, 40
KINDS = ("owlvit", "owlv2")
LETTERS = [*string.ascii_lowercase, "-"]
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]


def write(folder: Path, kind: str = "owlv2", seed: int = 3) -> Path:
    """A folder of this kind: each letter is a token, and each patch thinks more or less of each text."""
    folder.mkdir(parents=True)
    end = len(VOCABULARY) - 1
    text = {"vocab_size": len(VOCABULARY), "max_position_embeddings": CONTEXT, "bos_token_id": end - 1}
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    named = {"owlvit": ("OwlViT", "OwlViT"), "owlv2": ("Owlv2", "Owlv2")}[kind]
    config = getattr(transformers, f"{named[0]}Config")(
        text_config=text | size | {"eos_token_id": end, "pad_token_id": end},
        vision_config=size | {"image_size": SIDE, "patch_size": PATCH},
        projection_dim=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = getattr(transformers, f"{named[0]}ForObjectDetection")(config)
        # What the library starts training with is much the same for all patches and texts: these tell them apart.
        torch.nn.init.normal_(net.get_submodule(kind).text_model.embeddings.token_embedding.weight, std=1.0)
        heads = (net.class_head, net.box_head)
        for name, layer in [named for head in heads for named in head.named_modules() if hasattr(named[1], "weight")]:
            torch.nn.init.normal_(layer.weight, std=0.4 if name.startswith("logit") else 0.2)
            torch.nn.init.zeros_(layer.bias)
    net.save_pretrained(folder)
    getattr(transformers, f"{named[1]}ImageProcessor")(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="<|endoftext|>", model_max_length=CONTEXT
    )
    tokenizer.save_pretrained(folder)
    return folder

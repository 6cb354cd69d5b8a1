"""Records what open_clip's own `CoCa.generate` says, for tests/models/test_coca.py to hold our decoder against.

    python tests/models/make_golden.py        # writes golden.json beside itself

needs an environment of its own: open_clip_torch 3.3.0 with transformers 4.56.2, the newest with which `generate` runs
(torch 2.15.0, numpy). The tests need only `build` and `pictures`, which every environment can run: the models are tiny,
and their weights come from a seeded numpy generator.
"""

import json
from pathlib import Path

import numpy as np
import open_clip
import torch

VOCABULARY = 48
START, END, PAD = 46, 47, 0
PICTURES = 24
GOLDEN = Path(__file__).with_name("golden.json")

# How much is added to the logits of the end token and of token 0.
CASES: dict[str, dict] = {
    "plain": {"seed": 7, "end": 0.0, "pad": 0.0},
    "end likely": {"seed": 2, "end": 4.0, "pad": 0.0},
    "end very likely": {"seed": 7, "end": 5.0, "pad": 0.0},
    "token 0 likely": {"seed": 3, "end": 5.0, "pad": 0.0},
    "both likely": {"seed": 7, "end": 4.0, "pad": 4.0},
    "both very likely": {"seed": 5, "end": 4.0, "pad": 4.0},
}


def config(vocabulary: int = VOCABULARY) -> dict:
    """A CoCa of two layers a tower, as open_clip's JSON files put it."""
    return {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16,
            "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 6, "output_tokens": True,
        },
        "text_cfg": {
            "context_length": 40, "vocab_size": vocabulary, "width": 16, "heads": 2, "layers": 2,
            "embed_cls": True, "output_tokens": True,
        },
        "multimodal_cfg": {"context_length": 40, "vocab_size": vocabulary, "width": 16, "heads": 2, "layers": 2},
        "custom_text": True,
    }  # fmt: skip


def build(case: dict, vocabulary: int = VOCABULARY, ends: tuple[int, int] = (END, PAD)) -> open_clip.CoCa:
    """It with weights such that its captions vary with the picture, on CPU in fp32."""
    towers = config(vocabulary)
    del towers["custom_text"]  # tells open_clip's factory to build a CoCa
    net = open_clip.CoCa(**towers)
    random = np.random.default_rng(case["seed"])
    with torch.no_grad():
        for name, parameter in sorted(net.named_parameters()):
            values = random.standard_normal(parameter.shape, dtype=np.float32)
            if name.endswith(("ln_1.weight", "ln_2.weight", "ln_1_kv.weight", "ln_final.weight", "ln_post.weight")):
                values = 1 + 0.2 * values
            elif "embedding" not in name and name != "logit_scale":
                values *= 0.35
            parameter.copy_(torch.from_numpy(np.asarray(values)))
        decoder = net.text_decoder
        lean = decoder.ln_final.bias / decoder.ln_final.bias.square().sum()
        for token, boost in zip(ends, (case["end"], case["pad"]), strict=True):
            decoder.text_projection[:, token] += boost * lean
    return net.eval()


def pictures(n: int = PICTURES) -> np.ndarray:
    """float32[n, 3, 16, 16]"""
    return np.random.default_rng(0).standard_normal((n, 3, 16, 16), dtype=np.float32)


def generate(net: open_clip.CoCa, kind: str) -> list[list[int]]:
    return net.generate(
        torch.from_numpy(pictures()),
        generation_type={"beam": "beam_search", "greedy": "top_k"}[kind],
        sot_token_id=START,
        eos_token_id=END,
    ).tolist()


def main() -> None:
    golden: dict[str, dict] = {}
    for name, case in CASES.items():
        golden[name] = {}
        for kind in ("beam", "greedy"):
            said = generate(build(case), kind)
            # Candidates that tie in all but the last bits of a float may fall either way on another machine.
            shaken = build(case)
            noise = np.random.default_rng(9)
            with torch.no_grad():
                for parameter in shaken.parameters():
                    scale = 1 + 1e-5 * noise.standard_normal(parameter.shape, dtype=np.float32)
                    parameter.mul_(torch.from_numpy(np.asarray(scale)))
            again = generate(shaken, kind)
            firm = [a == b for a, b in zip(said, again, strict=True)]
            golden[name][kind] = {"tokens": said, "firm": firm}
            lengths = [ids.index(END) + 1 if END in ids else len(ids) for ids in said]
            print(name, kind, "distinct", len({tuple(i) for i in said}), "firm", sum(firm), "lengths", sorted(lengths),
                  "zeros", sum(0 in ids[:n] for ids, n in zip(said, lengths, strict=True)))  # fmt: skip
    GOLDEN.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

"""open_clip's own `generate`, as a process that answers requests; `peers.Reference` starts it in its environment.

    python benchmarks/reference.py MODEL CHECKPOINT THREADS DEVICE

A line of JSON in, one out. {"pixels": FILE.npy, "first": 0, "n": 8, "kind": "beam", "margins": false} asks for captions
of some pictures of uint8[…, side, side, 3]; the answer is {"seconds": …, "ids": […]}: of each caption the ids from the
start token to the last that counts. Where margins are asked for it is {"ids": […], "margins": […]}, see `Margin`.
"""

import json
import math
import sys
import time
from collections import defaultdict
from contextlib import contextmanager

import numpy as np
import open_clip
import torch
from networks import bare, prepared
from transformers.generation.beam_search import BeamHypotheses

START, END = 49406, 49407
KINDS = {"beam": "beam_search", "greedy": "top_k"}  # greedy is its default, top_k=1


class Margin:
    """How near a caption came to be another: the smallest difference of two scores that `generate` compared.

    Compared are the candidates of each step, the scores of finished captions, and the worst of these with what can
    still be reached. For one picture at a time: of several, those that are done go on with scores that mean nothing.
    """

    def __init__(self) -> None:
        self.smallest = math.inf
        self.finished: dict[int, list[float]] = defaultdict(list)

    def differ(self, one: float, other: float) -> None:
        self.smallest = min(self.smallest, abs(one - other))

    @contextmanager
    def watch(self):
        """Look on while `generate` runs."""
        topk, add, is_done = torch.topk, BeamHypotheses.add, BeamHypotheses.is_done

        def seen_topk(scores, k, *given, **named):
            values, places = topk(scores, k + 1, dim=-1)
            for one, other in zip(values[0, :-1].tolist(), values[0, 1:].tolist(), strict=True):
                self.differ(one, other)
            return torch.return_types.topk((values[:, :k], places[:, :k]))

        def seen_add(hypotheses, ids, total, *given, **named):
            score = total / named["generated_len"]
            for other in self.finished[id(hypotheses)]:
                self.differ(score, other)
            self.finished[id(hypotheses)].append(score)
            add(hypotheses, ids, total, *given, **named)

        def seen_is_done(hypotheses, best, length, *given, **named):
            # Equal they are where the best candidate is the very one that has just been kept as the worst.
            if len(hypotheses) == hypotheses.num_beams and hypotheses.worst_score != best / length:
                self.differ(hypotheses.worst_score, best / length)
            return is_done(hypotheses, best, length, *given, **named)

        torch.topk, BeamHypotheses.add, BeamHypotheses.is_done = seen_topk, seen_add, seen_is_done
        try:
            yield
        finally:
            torch.topk, BeamHypotheses.add, BeamHypotheses.is_done = topk, add, is_done


def generate(net: torch.nn.Module, images: torch.Tensor, kind: str) -> list[list[int]]:
    made = net.generate(images, generation_type=KINDS[kind], sot_token_id=START, eos_token_id=END).tolist()
    ends = {END} if kind == "beam" else {END, 0}  # token 0 is a word to the beam search
    return [ids[: next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))] for ids in made]


def answer(net: torch.nn.Module, pixels: np.ndarray, request: dict, device: str) -> dict:
    first, n, kind = request["first"], request["n"], request["kind"]
    images = prepared(net, pixels[first : first + n]).to(device)
    if request["margins"]:
        ids, margins = [], []
        for image in images:
            margin = Margin()
            with margin.watch():
                ids += generate(net, image[None], kind)
            margins.append(margin.smallest)
        return {"ids": ids, "margins": margins}
    started = time.perf_counter()
    ids = generate(net, images, kind)  # ends with the ids on the host
    return {"seconds": time.perf_counter() - started, "ids": ids}


def main() -> None:
    model, checkpoint, threads, device = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.backends.cuda.matmul.allow_tf32 = False
    net = bare(model)
    open_clip.load_checkpoint(net, checkpoint)
    net = net.eval().requires_grad_(False).to(device)
    pixels: dict[str, np.ndarray] = {}
    print(json.dumps({"torch": torch.__version__, "open_clip": open_clip.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["pixels"] not in pixels:
            pixels[request["pixels"]] = np.load(request["pixels"])
        print(json.dumps(answer(net, pixels[request["pixels"]], request, device)), flush=True)


if __name__ == "__main__":
    main()

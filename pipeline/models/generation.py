"""Which tokens a caption is made of: greedy, open_clip's own beam search, and a clean one.

All is tensors of one row a picture ("slot"), with no word of the host's in between, so that a GPU can run ahead. The
oddities of "beam" are those of open_clip 3.3.0's `generate`, which `tests/models/make_golden.py` recorded: its scores
add up raw logits, not log-probabilities; a finished caption's score is divided by its length with the end token; one
that is cut off at MAX_TOKENS has no end token. Greedy puts an end token there whatever the model says.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_TOKENS = 5  # the start token counts
MAX_TOKENS = 30
CHUNK = 128


@dataclass(frozen=True)
class Rule:
    """How tokens are chosen.

    `beams` captions of a picture are followed at a time; 1 is greedy. `logprobs`: scores add up log-probabilities, and
    are divided by the tokens chosen; else raw logits, divided by the tokens there are. `no_repeat`: a run of so many
    tokens occurs once in a caption; 0: any may come again.
    """

    beams: int
    logprobs: bool = False
    no_repeat: int = 0


RULES = {
    "greedy": Rule(beams=1),
    # open_clip has 6 beams in 3 groups, but without a diversity penalty the groups are identical: one of them will do.
    "beam": Rule(beams=2),
    "clean": Rule(beams=4, logprobs=True, no_repeat=3),
}
# What stands in the identity of a captions table.
IDENTITY = {
    "greedy": {"kind": "greedy", "min_tokens": MIN_TOKENS, "max_tokens": MAX_TOKENS},
    "beam": {"kind": "beam", "beams": 6, "groups": 3, "min_tokens": MIN_TOKENS, "max_tokens": MAX_TOKENS},
    "clean": {"kind": "clean", "beams": 4, "no_repeat_ngram": 3, "min_tokens": MIN_TOKENS, "max_tokens": MAX_TOKENS},
}


class Captions:
    """Captions being written, and the best of those finished.

    Attributes:
        ids: int64[slots, beams, MAX_TOKENS]; the first `lengths` of them count, the rest is 0
        lengths: int64[slots]
        scores, logprobs: float32[slots, beams], by the rule and of the model
        done: bool[slots]; nothing of such a slot changes any more
        finished, finished_lengths, finished_scores, finished_logprobs: the same of finished captions, in the order in
            which they ended, `count` int64[slots] of them; logprobs are means over the tokens chosen
    """

    def __init__(self, slots: int, rule: Rule, device: torch.device) -> None:
        self.rule = rule
        beams = rule.beams
        self.ids = torch.zeros(slots, beams, MAX_TOKENS, dtype=torch.long, device=device)
        self.lengths = torch.ones(slots, dtype=torch.long, device=device)
        self.scores = torch.zeros(slots, beams, device=device)
        self.logprobs = torch.zeros(slots, beams, device=device)
        self.done = torch.ones(slots, dtype=torch.bool, device=device)
        self.finished = torch.zeros_like(self.ids)
        self.finished_lengths = torch.zeros(slots, beams, dtype=torch.long, device=device)
        self.finished_scores = torch.zeros(slots, beams, device=device)
        self.finished_logprobs = torch.zeros(slots, beams, device=device)
        self.count = torch.zeros(slots, dtype=torch.long, device=device)

    def begin(self, slots: Tensor, start: int) -> None:
        """Start captions in slots int64[n]."""
        self.ids[slots] = 0
        self.ids[slots, :, 0] = start
        self.lengths[slots] = 1
        # All but the first beam start far behind: else all would choose the same tokens.
        self.scores[slots] = -1e9
        self.scores[slots, 0] = 0.0
        self.logprobs[slots] = 0.0
        self.count[slots] = 0
        self.done[slots] = False

    def put(self, other: "Captions", slots: Tensor) -> None:
        """Take over these slots, int64[n], of another, as the first n here."""
        for name, mine in vars(self).items():
            if isinstance(mine, Tensor):
                mine[: len(slots)] = getattr(other, name)[slots]

    def best(self, slots: Tensor) -> list[tuple[list[int], float]]:
        """(ids, start token first; mean log-probability of a chosen token) of the best caption of each slot."""
        beams = self.rule.beams
        missing = torch.arange(beams, device=slots.device) >= self.count[slots, None]
        scores = self.finished_scores[slots].masked_fill(missing, -torch.inf)
        best = beams - 1 - scores.flip(1).argmax(dim=1)  # of equals the last
        ids, lengths, logprobs = (
            t[slots, best].tolist() for t in (self.finished, self.finished_lengths, self.finished_logprobs)
        )
        return [(i[:n], logprob) for i, n, logprob in zip(ids, lengths, logprobs, strict=True)]

    def choose(self, logits: Tensor, end: int) -> Tensor:
        """Take one token more for each beam, given float32[slots, beams, vocabulary], which is overwritten.

        Returns int64[slots, beams]: which beam each of the beams goes on from.
        """
        total = logits[..., 0] - logits.log_softmax(dim=2)[..., 0]  # logsumexp, which would take four passes, in one
        early = (self.lengths < MIN_TOKENS)[:, None]
        logits[:, :, end].masked_fill_(early, -torch.inf)
        return (self._likeliest if self.rule.beams == 1 else self._beams)(logits, total, end)

    def _likeliest(self, logits: Tensor, total: Tensor, end: int) -> Tensor:
        value, token = logits[:, 0].max(dim=1)
        logprobs = self.logprobs[:, 0] + value - total[:, 0]
        ids = _append(self.ids, self.lengths, token[:, None])
        chosen = self.lengths.clone()
        stopped = (token == end) | (token == 0)  # 0 is padding to it, an end whenever it comes
        cut = ~stopped & (chosen + 2 == MAX_TOKENS)
        ids[:, 0, -1] = torch.where(cut, end, ids[:, 0, -1])
        self._finish(stopped | cut, logprobs, ids[:, 0], chosen + 1 + cut, logprobs / chosen)
        self._go_on(ids, self.scores, logprobs[:, None], stopped | cut)
        return torch.zeros_like(self.lengths)[:, None]

    def _beams(self, logits: Tensor, total: Tensor, end: int) -> Tensor:
        beams, vocabulary = self.rule.beams, logits.shape[2]
        if self.rule.no_repeat:
            _forbid_repeats(logits, self.ids, self.lengths, self.rule.no_repeat)
        scores = self.scores - total if self.rule.logprobs else self.scores
        values, places = _top(logits, scores, 2 * beams)
        parents, tokens = places // vocabulary, places % vocabulary
        steps = logits.flatten(1).gather(1, places) - total.gather(1, parents)
        logprobs = self.logprobs.gather(1, parents) + steps
        chosen = self.lengths.clone()  # tokens chosen, with this one
        share = chosen if self.rule.logprobs else chosen + 1
        ended = tokens == end
        for rank in range(beams):  # an end that comes later is none
            ids = _append(self.ids.gather(1, _wide(parents[:, rank, None])), chosen, tokens[:, rank, None])
            self._finish(ended[:, rank], values[:, rank] / share, ids[:, 0], chosen + 1, logprobs[:, rank] / chosen)
        enough = self._worst() >= values[:, 0] / share
        going = ended.byte().argsort(dim=1, stable=True)[:, :beams]  # each parent has one end token: others are enough
        parents, tokens, values, logprobs = (t.gather(1, going) for t in (parents, tokens, values, logprobs))
        ids = _append(self.ids.gather(1, _wide(parents)), chosen, tokens)
        last = chosen + 1 == MAX_TOKENS
        for beam in range(beams):
            self._finish(last & ~enough, values[:, beam] / share, ids[:, beam], chosen + 1, logprobs[:, beam] / chosen)
        self._go_on(ids, values, logprobs, enough | last)
        return parents

    def _worst(self) -> Tensor:
        """float32[slots]: the score to beat; -inf where there is room for more."""
        full = self.count == self.rule.beams
        return torch.where(full, self.finished_scores.amin(dim=1), -torch.inf)

    def _finish(self, which: Tensor, scores: Tensor, ids: Tensor, lengths: Tensor, logprobs: Tensor) -> None:
        """Keep a caption of each slot of `which`, if it is among the best; the worst one gives way."""
        beams = self.rule.beams
        full = self.count == beams
        accepted = which & ~self.done & (~full | (scores > self._worst()))
        places = torch.arange(beams, device=scores.device)
        worst = self.finished_scores.argmin(dim=1)  # of equals the first
        after = (places + (full[:, None] & (places >= worst[:, None]))).clamp(max=beams - 1)
        new = accepted[:, None] & (places == torch.where(full, beams - 1, self.count)[:, None])
        after = torch.where(accepted[:, None], after, places)
        for kept, value in (
            (self.finished_scores, scores),
            (self.finished_lengths, lengths),
            (self.finished_logprobs, logprobs),
        ):
            kept.copy_(torch.where(new, value[:, None], kept.gather(1, after)))
        self.finished.copy_(torch.where(new[..., None], ids[:, None], self.finished.gather(1, _wide(after))))
        self.count += accepted & ~full

    def _go_on(self, ids: Tensor, scores: Tensor, logprobs: Tensor, done: Tensor) -> None:
        self.ids.copy_(ids)
        self.scores.copy_(scores)
        self.logprobs.copy_(logprobs)
        self.done |= done
        self.lengths += ~self.done


def _wide(index: Tensor) -> Tensor:
    """int64[slots, n] → an index that gathers whole captions."""
    return index[..., None].expand(-1, -1, MAX_TOKENS)


def _append(ids: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
    """ids int64[slots, n, MAX_TOKENS] with tokens int64[slots, n] put after the first `lengths`, in a copy."""
    place = lengths.clamp(max=MAX_TOKENS - 1)[:, None, None].expand(-1, ids.shape[1], 1)
    return ids.scatter(2, place, tokens[..., None])


def _top(logits: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of logits [slots, beams, vocabulary] + scores [slots, beams] of each slot, and their places there.

    What is among the k largest lies in the k chunks with the largest maxima, which spares CPUs a partial sort of the
    whole, and adding to it.
    """
    slots, beams, n = logits.shape
    if n % CHUNK or n < 64 * CHUNK:
        values, places = (logits + scores[..., None]).flatten(1).topk(k)
        return values, places
    chunks = logits.view(slots, -1, CHUNK)
    which = (chunks.amax(dim=2).view(slots, beams, -1) + scores[..., None]).flatten(1).topk(k).indices
    found = chunks.gather(1, which[..., None].expand(-1, -1, CHUNK)) + scores.gather(1, which * CHUNK // n)[..., None]
    values, places = found.flatten(1).topk(k)
    return values, which.gather(1, places // CHUNK) * CHUNK + places % CHUNK


def _forbid_repeats(logits: Tensor, ids: Tensor, lengths: Tensor, run: int) -> None:
    """Set to -inf what would make the last `run` tokens of a caption the same as some before."""
    _, beams, size = ids.shape
    ends = torch.arange(run - 1, size, device=ids.device)  # where such a run could have ended
    same = (ends < lengths[:, None])[:, None].expand(-1, beams, -1)
    for back in range(1, run):
        last = ids.gather(2, (lengths - back).clamp(min=0)[:, None, None].expand(-1, beams, 1))
        same = same & (ids[:, :, run - 1 - back : size - back] == last)
    limit = torch.where(same, -torch.inf, torch.inf)
    logits.scatter_reduce_(2, ids[:, :, run - 1 :], limit, "amin")

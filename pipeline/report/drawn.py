"""The report's charts, each an <svg> with a label in words. Loading this loads matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import charts
from pipeline.charts import RULE, SERIES, SOFT
from pipeline.indexes.recall import ROWS, TEXTS

WIDE, NARROW = 1040, 360  # CSS pixels
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # years of a bar
BARS = 120  # at most
FEWEST = 12  # years on the axis, lest a single one make one broad bar
ASKED = {ROWS: "photos", TEXTS: "texts"}
EFFORTS = {"nprobe": "lists looked into (nprobe)", "efSearch": "graph nodes kept in mind (efSearch)"}
# What is drawn of a stage: legend → phases of receipts, see docs/tables.md.
PHASES: dict[str, dict[str, tuple[str, ...]]] = {
    "fetch": {
        "downloading": ("downloading",),
        "checking": ("decoding",),
        "waiting for its turn": ("waiting",),
        "resting between attempts": ("resting",),
    },
    "annotate": {
        "captioning": ("captioning",),
        "embedding": ("embedding",),
        "decoding (CPU)": ("decoding",),
        "device waiting": ("waiting",),
        "reading, writing": ("reading", "writing"),
    },
}


def years(facts: Mapping[str, Any]) -> str:
    """Photos by year, those of about that year set off; several years a bar where they are many."""
    known = {int(year): counts for year, counts in facts["years"].items()}
    first, last = min(known), max(known)
    step = next(step for step in STEPS if (last - first) / step <= BARS)
    bars: dict[int, list[int]] = {}
    for year, counts in known.items():
        bar = bars.setdefault(year - year % step, [0, 0])
        bar[0] += counts["photos"] - counts["circa"]
        bar[1] += counts["circa"]
    drawn, [axes] = charts.figure(WIDE, 240)
    places = [year + step / 2 - 0.5 for year in bars]
    surely, about = zip(*bars.values(), strict=True)
    axes.bar(places, surely, 0.82 * step, label="year known")
    if any(about):
        axes.bar(places, about, 0.82 * step, bottom=surely, color=SERIES[3], label="about that year")
        axes.legend(loc="lower right", ncols=2, borderaxespad=0, bbox_to_anchor=(1, 1.0))
    middle, half = (first + last) / 2, max((last - first) / 2 + step, FEWEST / 2)
    axes.set_xlim(middle - half, middle + half)
    charts.counts(axes)
    charts.whole(axes, 12)
    axes.set_ylabel("photos" if step == 1 else f"photos in {step} years")
    most = max(known, key=lambda year: known[year]["photos"])
    total = sum(counts["photos"] for counts in known.values())
    return charts.svg(
        drawn, f"Photos by year: {total:,} from {first} to {last}, most in {most}: {known[most]['photos']:,}"
    )


def phases(stage: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Seconds of a stage by phase, a stacked bar for each of (name, seconds by phase)."""
    named = PHASES.get(stage) or _longest([seconds for _, seconds in rows])
    drawn, [axes] = charts.figure(WIDE, 74 + 26 * len(rows))
    places = range(len(rows))  # names may be the same
    left = [0.0] * len(rows)
    for (name, members), color in zip(named.items(), (*SERIES, SOFT), strict=False):
        values = [sum(seconds.get(phase, 0.0) for phase in members) for _, seconds in rows][::-1]
        if any(values):
            axes.barh(places, values, 0.62, left=left, color=color, label=name)
            left = [before + value for before, value in zip(left, values, strict=True)]
    axes.legend(loc="lower left", ncols=6, borderaxespad=0, bbox_to_anchor=(0, 1.02), handlelength=1.2)
    axes.set_xlabel("seconds")
    axes.set_yticks(places, [name for name, _ in rows][::-1])
    axes.xaxis.grid(True)
    axes.tick_params(axis="y", length=0, labelcolor=charts.INK)
    axes.spines["left"].set_visible(False)
    told = "; ".join(f"{name}: {sum(seconds.values()):,.1f} s" for name, seconds in rows)
    return charts.svg(drawn, f"Seconds of {stage} by phase. {told}")


def _longest(found: Sequence[Mapping[str, float]]) -> dict[str, tuple[str, ...]]:
    """The phases that take longest, each by itself, and the rest together."""
    seconds = {phase: max(one.get(phase, 0.0) for one in found) for one in found for phase in one}
    names = sorted(seconds, key=lambda phase: -seconds[phase])
    alone = {name: (name,) for name in names[: len(SERIES)]}
    alone = {name.replace("_", " "): members for name, members in alone.items()}
    return alone | ({"others": tuple(names[len(SERIES) :])} if len(names) > len(SERIES) else {})


def lengths(found: Mapping[str, int]) -> str:
    drawn, [axes] = charts.figure(NARROW, 210)
    counts = {int(length): number for length, number in found.items()}
    axes.bar(list(counts), list(counts.values()), 0.85)
    axes.set_xlabel("words of a caption")
    axes.set_xlim(min(counts) - 1.5, max(counts) + 1.5)
    charts.counts(axes)
    charts.whole(axes, 8)
    most = max(counts, key=lambda length: counts[length])
    return charts.svg(
        drawn,
        f"Captions by length: {min(counts)} to {max(counts)} words, most often {most} ({counts[most]:,} captions)",
    )


def words(found: Mapping[str, int]) -> str:
    drawn, [axes] = charts.figure(WIDE, 230)
    axes.bar(range(len(found)), list(found.values()), 0.72, color=SERIES[1])
    axes.set_xticks(range(len(found)), [charts.short(word) for word in found], rotation=40, ha="right")
    axes.set_xlim(-0.8, len(found) - 0.2)
    axes.tick_params(axis="x", length=0, labelcolor=charts.INK, pad=1)
    axes.set_ylabel("captions with the word")
    charts.counts(axes)
    told = ", ".join(f"{word} {number:,}" for word, number in list(found.items())[:10])
    return charts.svg(drawn, f"Most frequent words of captions: {told}")


def spread(spread: Mapping[str, Any], label: str) -> str:
    """How the values of captions lie. `label`: what they are."""
    drawn, [axes] = charts.figure(NARROW, 210)
    starts = [one["from"] for one in spread["bins"]]
    width = starts[1] - starts[0] if len(starts) > 1 else 0.01
    axes.bar(starts, [one["captions"] for one in spread["bins"]], width, align="edge", color=SERIES[2])
    axes.axvline(spread["median"], color=SOFT, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xlabel(label)
    charts.counts(axes)
    return charts.svg(
        drawn,
        f"{label.capitalize()} of {spread['captions']:,} captions: from {spread['least']:g} to {spread['most']:g}, "
        f"median {spread['median']:g}",
    )


def recall_by_effort(index: Mapping[str, Any]) -> str:
    """Recall@10 and latency against effort; a line for each number of candidates, a dot where searches are."""
    steps = index["measured"]["curve"]
    name = next((key for key in steps[0]["effort"] if key != "rerank"), "rerank")
    reranks = sorted({step["effort"].get("rerank", 1) for step in steps})
    drawn, [left, right] = charts.figure(WIDE, 300, panels=2)
    color = iter(SERIES)
    told = []
    for rerank in reranks:
        some = [step for step in steps if step["effort"].get("rerank", 1) == rerank]
        at = [step["effort"][name] for step in some]
        more = f", {rerank} candidates a hit" if len(reranks) > 1 else ""
        for kind, asked in ASKED.items():
            if all(kind in step["recall"] for step in some):
                shares = [step["recall"][kind] for step in some]
                left.plot(
                    at, shares, "o-", markersize=3, linewidth=1.4, label=f"{asked}{more}", color=next(color, SOFT)
                )
                told.append(f"{asked}{more}: " + ", ".join(f"{x} {y:.3f}" for x, y in zip(at, shares, strict=True)))
        pace = [step["latency_ms"].get("p50", 0.0) for step in some]
        right.plot(
            at, pace, "o-", markersize=3, linewidth=1.4, label=f"p50{more}", color=SERIES[reranks.index(rerank) % 5]
        )
    left.axhline(index["recall"]["min_recall"], color=SOFT, linewidth=0.8, linestyle=(0, (3, 2)))
    left.set_title("recall@10")
    right.set_title("milliseconds of one query, median")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        charts.doubling(axes)
        axes.set_xlabel(EFFORTS.get(name, name))
        axes.grid(True)
        if name in index["effort"]:
            axes.axvline(index["effort"][name], color=RULE, linewidth=6, zorder=0)
        if axes is left or len(reranks) > 1:
            axes.legend(loc="best")
    return charts.svg(drawn, f"Recall at 10 by {name}. {'; '.join(told)}. Searches take {index['effort']}")


def recall_by_depth(index: Mapping[str, Any]) -> str:
    """Recall and latency by how many hits are asked for."""
    drawn, [left, right] = charts.figure(WIDE, 250, panels=2)
    told = []
    found = [(asked, index["recall"][kind]) for kind, asked in ASKED.items() if index["recall"][kind]]
    for number, (asked, shares) in enumerate(found):
        at = {key.removeprefix("recall@"): value for key, value in shares.items() if key.startswith("recall@")}
        places = [place + 0.36 * (number - (len(found) - 1) / 2) for place in range(len(at))]
        bars = left.bar(places, list(at.values()), 0.32, label=asked, color=SERIES[number])
        left.bar_label(bars, fmt="{:.3f}", fontsize=8, color=SOFT)
        left.set_xticks(range(len(at)), list(at))
        told.append(f"{asked}: " + ", ".join(f"{k} {share:g}" for k, share in at.items()))
    left.set_ylim(0, 1.12)
    left.set_title("share of the true nearest that is found")
    depths = {k: pace for k, pace in index["measured"]["depths"].items() if pace}
    bars = right.bar(range(len(depths)), [pace["p50"] for pace in depths.values()], 0.5, color=SERIES[0])
    right.bar_label(bars, fmt="{:.2g}", fontsize=8, color=SOFT)
    right.set_xticks(range(len(depths)), list(depths))
    right.set_title("milliseconds of one query, median")
    left.legend(loc="lower right", ncols=2, borderaxespad=0, bbox_to_anchor=(1, 1.01))
    for axes in (left, right):
        axes.set_xlabel("hits asked for")
        axes.yaxis.grid(True)
    pace_told = ", ".join(f"{k} hits {pace['p50']:g} ms" for k, pace in depths.items())
    return charts.svg(drawn, f"Recall by number of hits. {'; '.join(told)}. Median of a query: {pace_told}")

"""The figure of the translation benchmark: our BLEU by method, and the published ones beside."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from fwrl.bench import plot
from fwrl.bench.benchmark import Row


def draw_translation(rows: Sequence[Row], published: Sequence[Row], texts: str, path: Path) -> None:
    """Bars of test BLEU with a dot for each seed.

    Args:
        rows: Ours; some methods may be missing.
        published: The papers'.
        texts: The texts of our training, in words.
        path: The PNG file.
    """
    methods = plot.by(rows, "method")
    with plot.figure(path, 8.5, 1.4 + 0.33 * max(len(methods), len(published))) as figure:
        ours, theirs = figure.subplots(1, 2, width_ratios=(3, 2))
        bleu = {method: plot.numbers(seeds, "test_bleu") for method, seeds in methods.items()}
        plot.bars(ours, bleu, plot.colours_of(list(methods)), digits=1)
        whole = [100 * mean(plot.numbers(seeds, "test_exact")) for seeds in methods.values()]
        label = "sentences that are entirely correct, %"
        plot.marks(ours, whole, [place + 0.17 for place in range(len(whole))], "D", label, "black")
        ours.set(xlim=(0, 112), xlabel="test BLEU, mean of the seeds")
        ours.set_title(texts)
        known = plot.numbers(published, "test_bleu")
        for place, score in enumerate(known):
            theirs.plot(score, place, "o", color=plot.GREY, markersize=7)
            plot.write_beside(theirs, score, place, f"{score:.1f}")
        plot.name_rows(theirs, [str(row["method"]) for row in published])
        theirs.margins(x=0.25)
        theirs.set_xlabel("test BLEU")
        theirs.set_title("published: WMT14 en-de")
        plot.legend_below(figure)

"""What is shown of zeros among a component's weights."""

from collections.abc import Collection
from typing import Any

from latentrt.cli.terminal import print_table, say
from latentrt.engines.precision import SKIPS_ZEROS

_SHOWN_LAYERS = 10


def print_sparsity(component: str, record: dict[str, Any], backends: Collection[str]) -> None:
    """How good pictures are with zeros among the weights, and the layers whose pruning costs most."""
    layers = record["layers"]
    pruned = [layer for layer in layers.values() if layer["pruned"]]
    share = sum(layer["share"] for layer in pruned)
    say(
        f"{component} pruned to {record['pattern']}: {len(pruned)} of {len(layers)} layers, {share:.0%} of the "
        f"multiplications; {record['pictures']} pictures of {record['steps']} steps against all weights: mean "
        f"{record['psnr_mean']:.1f} dB, worst {record['psnr_worst']:.1f} dB ({record['worst_prompt']!r}); required "
        f"{record['quality']:g} dB"
    )
    others = sorted(set(backends) - set(SKIPS_ZEROS))
    if others:
        say(f"{', '.join(others)}: not faster for it, as zeros are multiplied by, too")
    print_table(
        f"{component}: pruned layers, their part of the multiplications, PSNR",
        ("layers", "part", "mean dB", "worst dB", ""),
        [
            (
                str(point["layers"]),
                f"{point['share']:.0%}",
                f"{point['psnr_mean']:.1f}",
                f"{point['psnr_worst']:.1f}",
                "chosen" if point["layers"] == len(pruned) else "",
            )
            for point in record["frontier"]
        ],
    )
    worst = sorted(layers.items(), key=lambda item: -item[1]["score"])[:_SHOWN_LAYERS]
    print_table(
        f"the {len(worst)} of {len(layers)} layers whose pruning moves the latents most (score)",
        ("layer", "", "part", "score", "error", "by"),
        [
            (
                path,
                "pruned" if layer["pruned"] else "whole",
                f"{layer['share']:.1%}",
                f"{layer['score']:.1e}",
                f"{layer['error']:.1e}",
                layer["criterion"],
            )
            for path, layer in worst
        ],
    )

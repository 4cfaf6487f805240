"""``latentrt samplers``."""

from latentrt.cli.commands.arguments import Json


def samplers(json: Json = False) -> None:
    """List the samplers."""
    from latentrt.cli.terminal import print_json, print_table
    from latentrt.runtime.sampling.sampler_table import SAMPLERS

    if json:
        keys = ("name", "label", "order", "stochastic", "calls_per_step")
        print_json({"samplers": [{key: getattr(row, key) for key in keys} for row in SAMPLERS.values()]})
        return
    rows = [
        (row.name, row.label, row.order, "yes" if row.stochastic else "no", row.calls_per_step)
        for row in SAMPLERS.values()
    ]
    print_table("", ("name", "label", "order", "stochastic", "model calls per step"), rows)

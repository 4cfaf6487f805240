"""What a guided call of a U-Net costs in several bundles and backends, and in OpenVINO as a peer runs it.

``python -m latentrt.benchmarks.studies.unet_steps sd1-fp32.bundle@ort-cpu sd1-bf16.bundle@openvino``
prints medians of rounds that take turns, each as a share of the first row's of the same round, and how far the results
are from its.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from latentrt.cli.terminal import print_table
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.checks.parity import psnr
from latentrt.engines.bundle.checks.probes import Probe, read_probes
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.engines.store.components import OpenComponents

_OUTPUT = "out_sample"
_TEXT = "encoder_hidden_states"
Call = Callable[[Mapping[str, Array]], Array]


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "bundles", nargs="+", metavar="DIR[@BACKEND]", help="of one model; the first row is the measure"
    )
    parser.add_argument(
        "--openvino",
        action="append",
        default=[],
        metavar="MODEL.xml",
        help="a U-Net that OpenVINO compiles as it comes",
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with ExitStack() as opened:
        first, _ = _named(arguments.bundles[0])
        probe = _guided(read_probes(first / "probes" / f"{UNET}.safetensors"))
        rows = {name: _ours(opened, name, probe.profile) for name in arguments.bundles}
        rows |= {path: _openvino(Path(path)) for path in arguments.openvino}
        printed = _rows(rows, probe.inputs, arguments.rounds)
    size = f"{probe.profile.width}x{probe.profile.height}, {len(probe.inputs['sample'])} rows"
    columns = ("", "s", "of the first", "dB to the first")
    print_table(f"a call of the U-Net, {size}, medians of {arguments.rounds} rounds", columns, printed)


def _named(text: str) -> tuple[Path, str]:
    folder, _, backend = text.partition("@")
    return Path(folder), backend or AUTO


def _guided(probes: Sequence[Probe]) -> Probe:
    """A case of two rows and prompts of one chunk, as guidance makes them."""
    shortest = min(probe.inputs[_TEXT].shape[1] for probe in probes)
    return next(one for one in probes if len(one.inputs["sample"]) == 2 and one.inputs[_TEXT].shape[1] == shortest)


def _ours(opened: ExitStack, name: str, profile: Profile) -> Call:
    folder, wanted = _named(name)
    bundle = open_bundle(folder)
    components = OpenComponents(bundle, chosen_backend(bundle, wanted), threads=None)
    opened.callback(components.close)
    engine = components.engine(UNET, Shapes(profile=replace(profile, batch=1)))
    return lambda inputs: engine.run(inputs)[_OUTPUT]


def _openvino(path: Path) -> Call:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU")
    names = {name for given in compiled.inputs for name in given.names}
    return lambda inputs: np.asarray(compiled({name: inputs[name] for name in names & inputs.keys()})[0])


def _rows(rows: Mapping[str, Call], inputs: Mapping[str, Array], rounds: int) -> list[tuple[str, ...]]:
    results = {name: call(inputs) for name, call in rows.items()}  # warms up, too
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, call in rows.items():
            begin = perf_counter()
            call(inputs)
            seconds[name].append(perf_counter() - begin)
    measure, *_ = rows
    expected = results[measure]
    printed: list[tuple[str, ...]] = []
    for name, own in seconds.items():
        shares = [one / other for one, other in zip(own, seconds[measure], strict=True)]
        share = apart = "–"
        if name != measure:
            share = f"{median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
            apart = f"{psnr(results[name], expected, peak=float(np.ptp(expected))):.1f}"
        printed.append((Path(name).name, f"{median(own):.3f}", share, apart))
    return printed


if __name__ == "__main__":
    main()

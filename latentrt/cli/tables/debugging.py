"""What ``latentrt debug`` found, for people and as data."""

import json
import math
from dataclasses import asdict
from typing import Any

from latentrt.cli.terminal import say
from latentrt.debugging.debug import DebugSettings
from latentrt.debugging.findings import Findings, Place, Suggestion
from latentrt.debugging.saving import GRAPH_FILE, INPUTS_FILE
from latentrt.engines.graphs.islands import Island

_OUTSIDE = "(no module)"
_ALWAYS = ("component", "reason")
_WORTH_TELLING = 1e-3  # of a precision's range


def print_findings(findings: Findings, settings: DebugSettings) -> None:
    """Where two sides part, the table of modules, how near both come to what was recorded, and what would mend it."""
    say(f"{findings.component} on {findings.suspect} against {findings.reference}")
    recorded, drawn = ("recorded ", "") if findings.drawing is None else ("", f" of {findings.drawing.prompt!r}, drawn")
    told = f"{len(findings.places)} tensors in {findings.runs} {recorded}run{'s' * (findings.runs != 1)}{drawn}"
    told += f"; {findings.hidden} more are not there by name" if findings.hidden else ""
    told += f"; {findings.rescaled} more are rescaled by SmoothQuant" if findings.rescaled else ""
    say(told)
    _print_modules(findings)
    if findings.apart is None:
        worst = findings.worst
        least = "" if worst is None or not worst.figures.error else f"; the largest error is {_place(worst)}"
        say(f"apart         nowhere (tolerance {findings.tolerance:.1e}){least}")
    else:
        say(f"apart         first at {_place(findings.apart)} (tolerance {findings.tolerance:.1e})")
    for name, error in findings.different_weights.items():
        say(f"weight        {name} differs between the bundles: relative error {_number(error)}")
    if findings.not_finite is None:
        say("not finite    nowhere")
    else:
        place = findings.not_finite
        expected = f"where the reference has up to {place.figures.expected:.3g}"
        say(f"not finite    first at {_place(place)}: {place.figures.not_finite} numbers, {expected}")
    if findings.furthest is not None and findings.furthest.figures.expected > _WORTH_TELLING * findings.end:
        mark, number = findings.furthest.mark, findings.furthest.figures.expected
        where = f"at {mark.module or _OUTSIDE}, node {mark.node} ({mark.operator})"
        share = number / findings.end
        told = f"{share:.1%} of" if share < 1 else f"{share:.1f} times"
        say(f"range         up to {number:.3g}, {told} the largest in this precision, {where}")
    for side, parity in findings.torch.items():
        say(f"{side:<13} against the recorded outputs: {parity}")
    if findings.reference_off:
        say("              so the reference is off, too: name a bundle that is as it should be with --reference")
    if findings.suggestion is not None:
        _print_suggestion(findings.component, findings.suggestion)
    elif settings.suggest:
        say("suggestion    none: no module has to be in fp32")
    save = settings.save
    if save is not None:
        say(
            f"saved         polygraphy run {save / GRAPH_FILE} --onnxrt --onnx-outputs mark all --load-inputs "
            f"{save / INPUTS_FILE} --load-outputs {save / 'reference.json'} --compare psnr "
            f"--psnr-threshold {findings.gate.psnr:g}"
        )


def _print_modules(findings: Findings) -> None:
    rows = findings.modules
    width = max(len(_OUTSIDE), *(len(row.module) for row in rows))
    say(f"{'module':<{width}}  {'error in':>8}  {'out':>8}  {'largest':>8}  {'expected':>8}  inf, NaN")
    for row in rows:
        figures = row.figures
        errors = f"{_number(row.takes):>8}  {_number(figures.error):>8}"
        numbers = f"{figures.largest:>8.3g}  {figures.expected:>8.3g}  {figures.not_finite or ''}"
        say(f"{row.module or _OUTSIDE:<{width}}  {errors}  {numbers}".rstrip())


def _print_suggestion(component: str, suggested: Suggestion) -> None:
    count = len(suggested.islands)
    verdict = "mend it" if suggested.mends else "do not mend it"
    left = f", {suggested.not_finite} numbers infinite or NaN" if suggested.not_finite else ""
    say(
        f"suggestion    {count} module{'s' * (count != 1)} in fp32 {verdict}: made again with them, the results have a "
        f"relative error of {_number(suggested.error)} (at most {suggested.limit:.1e}){left}"
    )
    for island in suggested.islands:
        say(f"  --fp32 '{fp32_option(component, island)}'")
    say(f"rows          of engines/graphs/islands.py, for every build of {suggested.islands[0].families[0]}")
    for island in suggested.islands:
        say(f"    {row(island)}")


def fp32_option(component: str, island: Island) -> str:
    """What ``latentrt build --fp32`` takes for an island."""
    return component if island.is_whole else f"{component}:{island.scope}"


def row(island: Island) -> str:
    """An island as ``engines/graphs/islands.py`` lists it."""
    told = {
        "precisions": f"({', '.join(f'Precision.{one.name}' for one in island.precisions)},)",
        "families": f"({', '.join(map(_quoted, island.families))},)",
        "component": _quoted(island.component),
        "scope": _quoted(island.scope),
        "reason": _quoted(island.reason),
    }
    usual = Island(component=island.component, reason=island.reason)
    named = (
        f"{name}={text}"
        for name, text in told.items()
        if name in _ALWAYS or getattr(usual, name) != getattr(island, name)
    )
    return f"Island({', '.join(named)}),"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _place(place: Place) -> str:
    mark, errors = place.mark, f"{_number(place.figures.error)} behind {_number(place.takes)}"
    return (
        f"{mark.module or _OUTSIDE}, node {mark.node} ({mark.operator}), tensor {mark.tensor}: relative error {errors}"
    )


def _number(error: float) -> str:
    return f"{error:.1e}" if math.isfinite(error) else "inf"


def findings_as_data(findings: Findings) -> dict[str, Any]:
    """Plain data; an infinite error is null."""
    suggested = findings.suggestion
    return {
        "component": findings.component,
        "suspect": findings.suspect,
        "reference": findings.reference,
        "runs": findings.runs,
        "drawing": None if findings.drawing is None else asdict(findings.drawing),
        "tolerance": findings.tolerance,
        "hidden": findings.hidden,
        "rescaled": findings.rescaled,
        "apart": _tensor(findings.apart),
        "not_finite": _tensor(findings.not_finite),
        "furthest": _tensor(findings.furthest),
        "different_weights": {name: _finite(error) for name, error in findings.different_weights.items()},
        "recorded": {
            side: {"relative_error": _finite(parity.relative_error), "psnr": _finite(parity.psnr)}
            for side, parity in findings.torch.items()
        },
        "modules": [
            {
                "module": row.module,
                "error_in": _finite(row.takes),
                "error": _finite(row.figures.error),
                "largest": row.figures.largest,
                "expected": row.figures.expected,
                "not_finite": row.figures.not_finite,
                "tensors": row.tensors,
            }
            for row in findings.modules
        ],
        "tensors": [_tensor(place) for place in findings.places],
        "suggestion": None
        if suggested is None
        else {
            "fp32": [fp32_option(findings.component, island) for island in suggested.islands],
            "rows": [row(island) for island in suggested.islands],
            "mends": suggested.mends,
            "relative_error": _finite(suggested.error),
            "limit": suggested.limit,
            "not_finite": suggested.not_finite,
        },
    }


def _tensor(place: Place | None) -> dict[str, Any] | None:
    if place is None:
        return None
    mark, figures = place.mark, place.figures
    return {
        "tensor": mark.tensor,
        "node": mark.node,
        "operator": mark.operator,
        "module": mark.module,
        "error_in": _finite(place.takes),
        "error": _finite(figures.error),
        "largest": figures.largest,
        "expected": figures.expected,
        "not_finite": figures.not_finite,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None

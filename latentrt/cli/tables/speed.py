"""What a build for speed measured, as a table."""

from typing import Any

from latentrt.cli.terminal import print_table, say


def print_speed(record: dict[str, Any]) -> None:
    """``speed.json``'s data: what was timed, judged and kept, and why the others were not."""
    print_table(
        f"speed: a picture of {record['steps']} steps, profile {record['profile']}",
        ("precision", "backend", "step", "picture", "share", "PSNR dB", "worst", ""),
        [
            (
                row["precision"],
                row["backend"],
                _seconds(row["step"]),
                _seconds(row["picture"]),
                format(row["share"], ".2f"),
                _decibels(row["psnr_mean"]),
                _decibels(row["psnr_worst"]),
                "kept" if row["reason"] is None else "",
            )
            for row in record["rows"]
            if row["picture"] is not None
        ],
    )
    say(
        f"medians of {record['rounds']} rounds; share: of the picture's time with fp32 on {record['reference']}, whose "
        f"{record['pictures']} pictures PSNR is against; required {record['quality']:g} dB; on {record['machine']}"
    )
    others: dict[tuple[str, str], list[str]] = {}
    for row in record["rows"]:
        if row["reason"] is not None:
            others.setdefault((row["backend"], row["reason"]), []).append(row["precision"])
    for (backend, reason), precisions in others.items():
        say(f"  {', '.join(precisions)} on {backend}: {reason}")


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1.0 else f"{seconds:.2f} s"


def _decibels(decibels: float | None) -> str:
    return "–" if decibels is None else f"{decibels:.1f}"

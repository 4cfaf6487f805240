"""The options of drawing from text: those of all drawing commands, and the hires fix."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from latentrt.cli.drawing.drawing import Drawing
from latentrt.engines.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class TextDrawing(Drawing):
    """The options of all drawing commands, and those of a second pass at a larger size."""

    hires: Annotated[
        float | None,
        typer.Option(
            "--hires",
            metavar="SCALE",
            help="Enlarge the picture so many times and draw it on in a second pass; both sizes are profiles.",
        ),
    ] = None
    hires_strength: Annotated[
        float | None,
        typer.Option("--hires-strength", help="How much the second pass redraws, above 0 to 1; default: 0.55."),
    ] = None
    hires_steps: Annotated[
        int | None, typer.Option("--hires-steps", help="Steps of the second pass; default: as many as the first.")
    ] = None
    hires_upscaler: Annotated[
        str | None,
        typer.Option(
            "--hires-upscaler",
            metavar="NAME|BUNDLE",
            help="What enlarges: latent (default), latent-nearest, latent-bicubic, lanczos, nearest, …, or an "
            "upscaler's bundle.",
        ),
    ] = None
    hires_sampler: Annotated[
        str | None, typer.Option("--hires-sampler", help="Sampler of the second pass; default: the first one's.")
    ] = None
    hires_prompt: Annotated[
        str | None, typer.Option("--hires-prompt", help="What the second pass draws; default: PROMPT.")
    ] = None
    hires_negative: Annotated[
        str | None,
        typer.Option("--hires-negative", help="What the second pass steers away from; default: as the first."),
    ] = None
    hires_guidance: Annotated[
        float | None,
        typer.Option("--hires-guidance", help="Guidance scale of the second pass; default: the first one's."),
    ] = None

    def options(self) -> dict[str, Any]:
        """The keywords that every batch is drawn with, as ``Drawing`` has them.

        Raises:
            LatentrtError: an option that cannot be read, or one about a second pass that there is not.
        """
        return {**super().options(), "hires": self._hires()}

    def _hires(self) -> Any:
        """What ``--hires`` and the options beside it ask for."""
        written = {
            "strength": ("--hires-strength", self.hires_strength),
            "steps": ("--hires-steps", self.hires_steps),
            "upscaler": ("--hires-upscaler", self.hires_upscaler),
            "sampler": ("--hires-sampler", self.hires_sampler),
            "prompt": ("--hires-prompt", self.hires_prompt),
            "negative_prompt": ("--hires-negative", self.hires_negative),
            "guidance_scale": ("--hires-guidance", self.hires_guidance),
        }
        given = {name: value for name, (_, value) in written.items() if value is not None}
        if self.hires is None:
            if given:
                names = " and ".join(written[name][0] for name in given)
                raise RequestError(
                    f"got {names} without --hires, expected how many times to enlarge; give --hires 2, or leave it out"
                )
            return None
        from latentrt.runtime.call.hires.hires import Hires

        return Hires(scale=self.hires, **given)  # type: ignore[arg-type]

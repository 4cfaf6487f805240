"""What a pipeline draws with models that were made to be told of a picture."""

from collections.abc import Sequence
from time import perf_counter
from typing import Unpack

from latentrt.engines.store.components import Engines
from latentrt.runtime.additions import Additions
from latentrt.runtime.call.drawing import draw
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.call.result import Result
from latentrt.runtime.pictures.image import Picture


class FromPicture:
    """The part of a pipeline whose calls need a picture: videos, views of an object, edits and variations.

    Each refuses a model that was made for something else, and says what that one draws.
    """

    _engines: Engines
    _additions: Additions

    def edit(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Picture | Sequence[Picture],
        image_guidance_scale: float | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Draws a picture anew with what a prompt says to change (InstructPix2Pix).

        Args:
            prompt: what to do, such as "make it snow"; one text or several; None where ``prompt_embeds`` are given.
            image: the picture for all, or one per picture drawn: PIL or arrays, as ``img2img`` takes them.
            image_guidance_scale: how closely the picture is kept, 1 or more: the weight of guidance towards it, beside
                ``guidance_scale``, which is that of the prompt. None is 1.5. Both are off where ``guidance_scale`` is
                at most 1.
            **options: see ``Options``. Where neither width nor height is given, the picture's own size is taken; PIL
                pictures are resized.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        from latentrt.runtime.call.editing import edit_call  # loaded by those who use it

        begin = perf_counter()
        manifest = self._engines.bundle.manifest
        call = edit_call(manifest, prompt, image, image_guidance_scale, options, self._additions)
        return draw(self, self._engines, self._additions.text_encoders, call, begin)

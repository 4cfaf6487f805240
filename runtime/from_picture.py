"""What a pipeline draws with models that were made to be told of a picture."""

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Unpack

from PIL import Image

from latentrt.engines.spec import Array
from latentrt.engines.store.components import Engines
from latentrt.runtime.additions import Additions
from latentrt.runtime.call.checked_call import CheckedCall
from latentrt.runtime.call.drawing import draw
from latentrt.runtime.call.keywords.from_picture import SeenOptions, ViewOptions
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.call.keywords.video_options import VideoOptions
from latentrt.runtime.call.result import Result
from latentrt.runtime.pictures.image import Picture
from latentrt.runtime.serving.lanes.future import DrawnFuture, PictureFuture
from latentrt.runtime.serving.lanes.submitted import steps_of, watched
from latentrt.runtime.serving.lanes.workers import Workers

if TYPE_CHECKING:
    from latentrt.runtime.call.tasks.video.result import VideoResult


class FromPicture:
    """The part of a pipeline whose calls need a picture: videos, views of an object, edits and variations.

    Each refuses a model that was made for something else, and says what that one draws.
    """

    _engines: Engines
    _additions: Additions
    _workers: Workers

    if TYPE_CHECKING:

        def preview(self, denoised: Array) -> list[Image.Image]:
            """As ``Pipeline.preview``."""

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
        from latentrt.runtime.call.tasks.editing import edit_call  # loaded by those who use it

        begin = perf_counter()
        manifest = self._engines.bundle.manifest
        call = edit_call(manifest, prompt, image, image_guidance_scale, options, self._additions)
        return draw(self, self._engines, self._additions.text_encoders, call, begin)

    def view(self, image: Picture | Sequence[Picture], **options: Unpack[ViewOptions]) -> Result:
        """Draws the object in a picture as it is seen from other places (Zero123, Stable Zero123).

        Args:
            image: the picture for all views, or one per view: PIL or arrays, as ``img2img`` takes them. What is
                transparent becomes white, as the models were trained; PIL pictures are resized to the size drawn.
            **options: see ``ViewOptions``. ``elevation`` and ``azimuth``, and with them ``distance`` or
                ``image_elevation``, say from where; lists draw several views, for which the picture is encoded once.
                Each view is a picture of the batch: to give all the same noise, give ``seed`` as a list.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        from latentrt.runtime.call.tasks.views.view import view_call  # loaded by those who use it

        begin = perf_counter()
        call = view_call(self._engines.bundle.manifest, image, options, self._additions)
        return draw(self, self._engines, self._additions.text_encoders, call, begin)

    def submit_view(self, image: Picture | Sequence[Picture], **options: Unpack[ViewOptions]) -> PictureFuture:
        """Has views drawn by threads of the pipeline's own, as ``submit`` does with pictures.

        Args:
            image: as in ``view``.
            **options: likewise.

        Raises:
            RequestError: an argument that cannot be served, with what to do; nothing is drawn.
            EngineError: the pipeline is closed.
        """
        from latentrt.runtime.call.tasks.views.view import view_call

        return self._submitted(view_call(self._engines.bundle.manifest, image, options, self._additions))

    def variation(self, image: Picture | Sequence[Picture], **options: Unpack[SeenOptions]) -> Result:
        """Draws pictures that show what a picture shows (SD image variations).

        Args:
            image: the picture, or several, of each of which ``num_images_per_prompt`` are drawn: PIL or arrays of any
                size, as ``img2img`` takes them. Their middles are seen.
            **options: see ``SeenOptions``.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        from latentrt.runtime.call.tasks.views.variation import variation_call  # loaded by those who use it

        begin = perf_counter()
        call = variation_call(self._engines.bundle.manifest, image, options, self._additions)
        return draw(self, self._engines, self._additions.text_encoders, call, begin)

    def submit_variation(self, image: Picture | Sequence[Picture], **options: Unpack[SeenOptions]) -> PictureFuture:
        """Has variations drawn by threads of the pipeline's own, as ``submit`` does with pictures.

        Args:
            image: as in ``variation``.
            **options: likewise.

        Raises:
            RequestError: an argument that cannot be served, with what to do; nothing is drawn.
            EngineError: the pipeline is closed.
        """
        from latentrt.runtime.call.tasks.views.variation import variation_call

        return self._submitted(variation_call(self._engines.bundle.manifest, image, options, self._additions))

    def img2vid(self, image: Picture | Sequence[Picture], **options: Unpack[VideoOptions]) -> "VideoResult":
        """Draws videos that begin with a picture.

        Args:
            image: the picture, or several, of each of which there is a video: PIL, which are resized to the video's
                size; or arrays of that size, uint8 or floats in [0, 1], with the channels (1, 3 or 4) last or first.
            **options: see ``VideoOptions``.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        from latentrt.runtime.call.tasks.video.call import video_call  # loaded by those who draw videos
        from latentrt.runtime.call.tasks.video.drawing import draw_videos

        begin = perf_counter()
        return draw_videos(self, self._engines, video_call(self._engines.bundle.manifest, image, options), begin)

    def submit_img2vid(
        self, image: Picture | Sequence[Picture], **options: Unpack[VideoOptions]
    ) -> "DrawnFuture[VideoResult]":
        """Has videos drawn by threads of the pipeline's own, as ``submit`` does with pictures.

        Args:
            image: as in ``img2vid``.
            **options: likewise.

        Returns:
            A future; its ``steps`` count model calls and decoded chunks, its ``preview`` shows every frame.

        Raises:
            RequestError: an argument that cannot be served, with what to do; nothing is drawn.
            EngineError: the pipeline is closed.
        """
        from latentrt.runtime.call.tasks.video.call import video_call
        from latentrt.runtime.call.tasks.video.drawing import draw_videos, steps_of_videos

        call = video_call(self._engines.bundle.manifest, image, options)
        future: DrawnFuture[VideoResult] = DrawnFuture(steps_of_videos(call), self.preview)
        call = watched(call, future.stepped)
        self._workers.submit(future, lambda: draw_videos(self, self._engines, call, perf_counter()))
        return future

    def _submitted(self, call: CheckedCall) -> PictureFuture:
        """Has a call drawn by the pipeline's own threads, with what is loaded now."""
        future, text_encoders = PictureFuture(steps_of(call), self.preview), self._additions.text_encoders
        call = watched(call, future.stepped)
        self._workers.submit(future, lambda: draw(self, self._engines, text_encoders, call, perf_counter()))
        return future

"""diffusers' pipelines with control nets, over the modules of a reference."""

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from parity.reference import DiffusersReference


class ControlImage:
    """A pipeline from text under the others' keyword: ``control_image`` is its ``image``."""

    def __init__(self, pipeline: Any) -> None:
        self.__dict__["_pipeline"] = pipeline

    def __call__(self, *, control_image: Any, **more: Any) -> Any:
        return self._pipeline(image=control_image, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_pipeline"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._pipeline, name, value)


class ControlReference(DiffusersReference):
    """A checkpoint's diffusers pipelines with control nets, or from text with T2I-Adapters."""

    def __init__(self, checkpoint: Path, nets: Sequence[Path], adapters: Sequence[Path] = ()) -> None:
        """Loads the checkpoint and the folders of nets or adapters."""
        import diffusers

        super().__init__(checkpoint)
        xl = "XL" in type(self.text).__name__
        kind = "StableDiffusionXL" if xl else "StableDiffusion"
        options: dict[str, Any] = {} if xl else {"requires_safety_checker": False}
        components = self.text.components

        def pipeline(suffix: str, **more: Any) -> Any:
            chosen = getattr(diffusers, f"{kind}{suffix}Pipeline")
            known = signature(chosen.__init__).parameters
            kept = {name: part for name, part in components.items() if name in known}
            made = chosen(**kept, **options, **more)
            made.set_progress_bar_config(disable=True)
            return made

        if adapters:
            loaded = [diffusers.T2IAdapter.from_pretrained(folder) for folder in adapters]
            adapter = loaded[0] if len(loaded) == 1 else diffusers.MultiAdapter(loaded)
            self.text = ControlImage(pipeline("Adapter", adapter=adapter))
            return
        models = [diffusers.ControlNetModel.from_pretrained(folder) for folder in nets]
        controlnet = models[0] if len(models) == 1 else models
        self.text = ControlImage(pipeline("ControlNet", controlnet=controlnet))
        self.image = pipeline("ControlNetImg2Img", controlnet=controlnet)
        self.inpaint = pipeline("ControlNetInpaint", controlnet=controlnet)

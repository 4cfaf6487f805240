"""stable-diffusion.cpp through the wheel cyllama. It reads the weights of a folder in diffusers layout.

It knows the sizes of SD 1.x, 2.x and SDXL by heart, so that a small model is refused. Of the stages it tells the steps.
"""

import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from latentrt.benchmarks.peers.older_names import read_header, renamed, write_header
from latentrt.benchmarks.peers.output import save

# What it calls the parts of a model in diffusers' names
_PREFIXES = {"unet": "unet.", "vae": "vae.", "text_encoder": "te."}
_FILE = "model.safetensors"
_ERROR = 3  # its log level


def prepare(checkpoint: str, folder: Path) -> None:
    """Puts the parts' tensors into one file of safetensors: a size, a header of JSON, and the data behind it."""
    header: dict[str, Any] = {}
    sources, start = [], 0
    for part, prefix in _PREFIXES.items():
        path = _weights(Path(checkpoint) / part)
        with path.open("rb") as file:
            found = read_header(file)
            sources.append((path, file.tell()))
        found.pop("__metadata__", None)
        for name, entry in (renamed(found) if part == "text_encoder" else found).items():
            header[prefix + name] = {**entry, "data_offsets": [start + offset for offset in entry["data_offsets"]]}
        start += max(entry["data_offsets"][1] for entry in found.values())
    with (folder / _FILE).open("wb") as target:
        write_header(target, header)
        for path, begin in sources:
            with path.open("rb") as file:
                file.seek(begin)
                shutil.copyfileobj(file, target, 1 << 24)


class Adapter:
    """A checkpoint, in fp32."""

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Loads all weights."""
        from cyllama import sd

        said: list[str] = []
        sd.set_log_callback(lambda level, text: said.append(text.strip()) if level >= _ERROR else None)
        parameters = sd.SDContextParams(model_path=str(Path(model) / _FILE))
        parameters.wtype = sd.SDType.F32
        parameters.rng_type = sd.RngType.CPU  # PyTorch's generator on the CPU
        parameters.diffusion_flash_attn = True
        parameters.free_params_immediately = False
        if options.get("threads"):
            parameters.n_threads = options["threads"]
        try:
            self._context = sd.SDContext(parameters)
        except RuntimeError as error:
            raise RuntimeError(f"stable-diffusion.cpp: {'; '.join(said) or error}") from error

    def arithmetic(self, request: Mapping[str, Any]) -> None:
        """It does not tell; its weights are kept in float32, as was asked."""

    def versions(self) -> Mapping[str, str]:
        """cyllama's, which says whose source it contains."""
        from importlib.metadata import version

        return {"cyllama": version("cyllama"), "precision": "fp32"}

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """Draws one picture after the other: its own batches take their seeds in a row."""
        import numpy as np
        from cyllama import sd

        marks: list[float] = []
        sd.set_progress_callback(lambda step, steps, seconds: marks.append(perf_counter()) if step else None)
        pixels = []
        begin = perf_counter()
        for prompt, seed in zip(request["prompts"], request["seeds"], strict=True):
            (image,) = self._context.generate(
                prompt,
                negative_prompt="",
                width=request["width"],
                height=request["height"],
                seed=seed,
                sample_steps=request["steps"],
                cfg_scale=request["guidance"],
                sample_method=sd.SampleMethod.DPMPP2M,
                scheduler=sd.Scheduler.KARRAS,
            )
            pixels.append(np.asarray(image.to_numpy(), np.float32)[..., :3] / 255)
        total = perf_counter() - begin
        save(output, np.stack(pixels), None)
        steps = [after - before for before, after in pairwise(marks)]
        return {"total": total, "steps": [steps[0], *steps] if steps and len(request["prompts"]) == 1 else []}


def _weights(folder: Path) -> Path:
    """A part's one file of weights."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder.name} has {len(files)} files of safetensors, expected one")
    return files[0]

"""Reads an adapter's file."""

from pathlib import Path

from latentrt.runtime.adapters.adapter import Adapter, ModelWeights


def adapter_from_path(path: Path, name: str, model: ModelWeights, base: str) -> Adapter:
    """Reads the adapter in a file or folder for a model.

    Args:
        path: safetensors, a torch pickle, or a folder as PEFT and InvokeAI write it.
        name: what it will be called.
        model: the shapes of the model's weights.
        base: what the model is, for messages, such as "Stable Diffusion 1.x".

    Raises:
        RequestError: no such file, damaged, no adapter, one for another model, or one with tensors that have no place.
    """
    raise NotImplementedError

"""Two checkpoints compared: a file's and that of the folder which it was made from."""

import torch

from latentrt.export.sources.checkpoint import Checkpoint

# What does not show in a file of tensors: how the part was saved, sizes that only set defaults, habits of training;
# and depths of transformers, which can be said in several ways and show in the weights' names
_ELSEWHERE = {
    "_name_or_path", "_diffusers_version", "transformers_version", "architectures", "dtype", "torch_dtype",
    "sample_size", "bos_token_id", "eos_token_id", "pad_token_id", "model_type", "attention_dropout",
    "initializer_factor", "initializer_range", "_commit_hash", "upcast_attention", "transformer_layers_per_block",
}  # fmt: skip


def assert_equal_parts(one: Checkpoint, two: Checkpoint) -> None:
    """Every weight of every part, bit for bit."""
    assert one.parts.keys() == two.parts.keys()
    for name, part in one.parts.items():
        states = part.module().state_dict(), two.parts[name].module().state_dict()
        assert states[0].keys() == states[1].keys()
        for key, tensor in states[0].items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, states[1][key]), f"{name}: {key}"


def assert_equal_configs(one: Checkpoint, two: Checkpoint) -> None:
    """What every part's module is made of, as far as tensors tell it."""
    for name, part in one.parts.items():
        made = [getattr(found.module(), "config", None) for found in (part, two.parts[name])]
        values = [config.to_dict() if hasattr(config, "to_dict") else dict(config or {}) for config in made]
        for key in values[1].keys() - _ELSEWHERE:
            assert _plain(values[0].get(key)) == _plain(values[1][key]), f"{name}: {key}"


def _plain(value: object) -> object:
    """Lists for tuples, and one number for a list that repeats it (depths of transformers, heads)."""
    if isinstance(value, (list, tuple)):
        plain = [_plain(item) for item in value]
        return plain[0] if plain and all(item == plain[0] for item in plain) else plain
    return value

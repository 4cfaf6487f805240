"""Whether the tensors of a part are those of its module: names and shapes, from headers before torch is needed."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

Shapes = Mapping[str, tuple[int, ...]]
_SHOWN = 3
_MOST_LAYERS = 1000
_WRAPPED = "text_model."  # transformers wraps its text model in some classes and releases and not in others
# A tensor of every such part, by whose place a prefix shows
MARKS = {
    "text_encoder": "embeddings.token_embedding.weight",
    "text_encoder_2": "embeddings.token_embedding.weight",
    "unet": "conv_in.weight",
    "vae": "encoder.conv_in.weight",
    "controlnet": "conv_in.weight",
    "controlnet_union": "conv_in.weight",
    "image_encoder": "vision_model.embeddings.class_embedding",
}
_CLIP_LAYER = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    *("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
)


class FittingError(Exception):
    """Tensors that are not those of a module; the message goes behind the part's name."""


def named(keys: Collection[str], *, of: int | None = None) -> str:
    """The first few of some names, and how many more there are (of ``of``, where not all are given)."""
    more = (len(keys) if of is None else of) - min(len(keys), _SHOWN)
    return f"{', '.join(list(keys)[:_SHOWN])}{f' and {more} more' if more else ''}"


def fitting_tensors(tensors: Mapping[str, Any], module: Any) -> dict[str, Any]:
    """The tensors under the names that a module has.

    Raises:
        FittingError: some are missing, or of other shapes; the first few are named.
    """
    wanted = module.state_dict()
    wrapped = any(key.startswith(_WRAPPED) for key in wanted)
    found = {}
    for key, tensor in tensors.items():
        bare = key.removeprefix(_WRAPPED)
        found[f"{_WRAPPED}{bare}" if wrapped and not bare.startswith("text_projection") else bare] = tensor
    _compare({key: tuple(tensor.shape) for key, tensor in wanted.items()}, _shapes_of(found))
    return {key: found[key] for key in wanted}


def _shapes_of(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def header_faults(part: str, config: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """What is wrong with the tensors of a folder's part, as far as its config tells without its module.

    Args:
        part: its name.
        config: of diffusers or transformers; a value of another type than theirs is passed over.
        shapes: by the names in the files.
    """
    prefix = _stray_prefix(MARKS[part], shapes)
    if prefix is not None:
        expected = f"none or {_WRAPPED!r}" if part.startswith("text_encoder") else "none"
        return [f"has its tensors under the prefix {prefix!r}, expected {expected}"]
    bare = {key.removeprefix(_WRAPPED): shape for key, shape in shapes.items()}
    try:
        _compare(dict(_skeleton(part, config)), bare)
    except FittingError as error:
        return [str(error)]
    return []


def _compare(wanted: Mapping[str, tuple[int, ...] | None], found: Shapes) -> None:
    """Refuses names that are missing and shapes that differ; a shape of None is any."""
    missing = [f"{key} is missing" for key in wanted if key not in found]
    odd = [
        f"{key} {found[key]} instead of {shape}"
        for key, shape in wanted.items()
        if shape is not None and key in found and found[key] != shape
    ]
    if missing or odd:
        first = [*missing[:_SHOWN], *odd[:_SHOWN]]
        more = len(missing) + len(odd) - len(first)
        raise FittingError(f"is incomplete or of another kind: {', '.join(first)}{f' and {more} more' if more else ''}")


def _stray_prefix(mark: str, names: Iterable[str]) -> str | None:
    """What stands before the names of most tensors, where it is none of the library's."""
    names = list(names)
    prefixes = [name.removesuffix(mark) for name in names if name.endswith(mark)]
    if any(prefix in ("", _WRAPPED) for prefix in prefixes):
        return None
    most = [prefix for prefix in prefixes if 2 * sum(name.startswith(prefix) for name in names) > len(names)]
    return most[0] if most and most[0].endswith(".") else None


def _skeleton(part: str, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    """Tensors that a part with this config has; far from all, but some of every layer."""
    if part.startswith("text_encoder"):
        yield from _clip(config)
    elif part == "unet":
        yield from _unet(config)
    elif part == "vae":
        yield from _vae(config)
    elif part == "image_encoder":
        yield from _clip_vision(config)
    else:
        yield from _control_net(config)


def _clip(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    # The defaults are CLIPTextConfig's
    rows, width = config.get("vocab_size", 49408), config.get("hidden_size", 512)
    positions, layers = config.get("max_position_embeddings", 77), config.get("num_hidden_layers", 12)
    if not all(map(_is_count, (rows, width, positions))) or not _is_count(layers, _MOST_LAYERS):
        return
    yield "embeddings.token_embedding.weight", (rows, width)
    yield "embeddings.position_embedding.weight", (positions, width)
    for layer in range(layers):
        for name in _CLIP_LAYER:
            yield f"encoder.layers.{layer}.{name}.weight", None
            yield f"encoder.layers.{layer}.{name}.bias", None
    yield "final_layer_norm.weight", (width,)
    yield "final_layer_norm.bias", (width,)


def _clip_vision(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    width, patch = config["hidden_size"], config["patch_size"]
    yield "vision_model.embeddings.class_embedding", (width,)
    yield "vision_model.embeddings.patch_embedding.weight", (width, config["num_channels"], patch, patch)
    yield "vision_model.embeddings.position_embedding.weight", (1 + (config["image_size"] // patch) ** 2, width)
    if _is_count(config["num_hidden_layers"], _MOST_LAYERS):
        for layer in range(config["num_hidden_layers"]):
            for name in _CLIP_LAYER:
                yield f"vision_model.encoder.layers.{layer}.{name}.weight", None
    yield "visual_projection.weight", (config["projection_dim"], width)


def _unet(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    channels, layers = config.get("block_out_channels"), config.get("layers_per_block", 2)
    if not _are_sizes(channels) or not _is_count(layers, _MOST_LAYERS):
        return
    yield from _way_down(config, channels, layers)
    predicted, first = config.get("out_channels"), _first_convolution(config)
    for level in range(len(channels)):
        yield from ((f"up_blocks.{level}.resnets.{layer}.{first}", None) for layer in range(layers + 1))
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None:
        yield f"mid_block.resnets.0.{first}", None
    kernel = _kernel(config, "conv_out_kernel")
    yield "conv_out.weight", (predicted, channels[0], *kernel) if _is_count(predicted) else None


def _way_down(
    config: Mapping[str, Any], channels: list[int], layers: int
) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    taken = config.get("in_channels")
    yield "conv_in.weight", (channels[0], taken, *_kernel(config, "conv_in_kernel")) if _is_count(taken) else None
    yield "time_embedding.linear_1.weight", None
    first = _first_convolution(config)
    for level in range(len(channels)):
        yield from ((f"down_blocks.{level}.resnets.{layer}.{first}", None) for layer in range(layers))


def _control_net(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    # The defaults are ControlNetModel's
    channels, layers = config.get("block_out_channels", [320, 640, 1280, 1280]), config.get("layers_per_block", 2)
    if not _are_sizes(channels) or not _is_count(layers, _MOST_LAYERS):
        return
    yield from _way_down(config, channels, layers)
    yield "controlnet_cond_embedding.conv_in.weight", None
    for index in range((layers + 1) * len(channels)):
        yield f"controlnet_down_blocks.{index}.weight", None
    yield "controlnet_mid_block.weight", (channels[-1], channels[-1], 1, 1)


def _vae(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    channels, layers = config.get("block_out_channels"), config.get("layers_per_block", 1)
    latents = config.get("latent_channels", 4)
    if not _are_sizes(channels) or not _is_count(layers, _MOST_LAYERS) or not _is_count(latents):
        return
    halves = (("encoder", "down", layers, "conv1.weight"), ("decoder", "up", layers + 1, _first_convolution(config)))
    for half, stage, count, first in halves:
        yield f"{half}.conv_in.weight", None
        for level in range(len(channels)):
            blocks = f"{half}.{stage}_blocks.{level}.resnets"
            yield from ((f"{blocks}.{layer}.{first}", None) for layer in range(count))
        yield f"{half}.mid_block.resnets.0.{first}", None
        yield f"{half}.conv_out.weight", None
    if config.get("use_quant_conv", True):
        yield "quant_conv.weight", (2 * latents, 2 * latents, 1, 1)
    if config.get("use_post_quant_conv", not _is_temporal(config)):
        yield "post_quant_conv.weight", (latents, latents, 1, 1)


def _is_temporal(config: Mapping[str, Any]) -> bool:
    """Whether it is the part of a model of videos, whose residual blocks are two in one."""
    return "Temporal" in str(config.get("_class_name"))


def _first_convolution(config: Mapping[str, Any]) -> str:
    return "spatial_res_block.conv1.weight" if _is_temporal(config) else "conv1.weight"


def _are_sizes(channels: Any) -> TypeGuard[list[int]]:
    return isinstance(channels, (list, tuple)) and len(channels) > 0 and all(type(size) is int for size in channels)


def _is_count(number: Any, most: int = 2**20) -> TypeGuard[int]:
    """Whether a config's value is a number of channels or the like."""
    return type(number) is int and 0 <= number <= most


def _kernel(config: Mapping[str, Any], key: str) -> tuple[int, int]:
    size = config.get(key, 3)
    return size, size

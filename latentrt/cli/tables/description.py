"""``latentrt inspect``: a bundle's description as tables."""

from collections import Counter
from typing import Any

from latentrt.cli.tables.sparsity import print_sparsity
from latentrt.cli.tables.speed import print_speed
from latentrt.cli.terminal import megabytes, print_table, say
from latentrt.engines.backends.tensorrt.contents import counts_with_weights
from latentrt.engines.bundle.checks.parity import Reference
from latentrt.engines.bundle.kinds import ComponentKind
from latentrt.engines.bundle.records.conditioning import PoseKind, Resizing, Task
from latentrt.engines.bundle.records.manifests.addon_manifest import AddonKind
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.machine import gpu_of_machine
from latentrt.engines.precision import NEVER_RUN

# NumPy's names, and OpenVINO's
_DTYPES = {
    "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "f32": "fp32", "f16": "fp16", "u8": "int8", "i8": "int8",
}  # fmt: skip
_RESIZED = {
    Resizing.CENTER_CROP: "whose middle is cut out",
    Resizing.SQUEEZED: "bicubic, without antialiasing",
    Resizing.BLURRED: "bicubic behind a blur",
}
_FOURTH = {
    PoseKind.DISTANCE: "the change of the distance",
    PoseKind.IMAGE_ELEVATION: "the polar angle of the picture's own view",
}
_SHOWN_NODES = 12
_SHOWN_TENSORS = 8


def print_description(description: dict[str, Any]) -> None:
    """``describe``'s data as tables."""
    kind = description["addon"]
    what = description["family"] if kind is None else f"{AddonKind(kind).label} for {description['family']}"
    if description["upscaler"] is not None:
        what = f"an upscaler x{description['scale']}, {description['family']}"
    say(f"{description['bundle']}: {description['source']} ({what})")
    if not description["seal"]["intact"]:
        say("seal       broken: bundle.json was edited, and is shown as it is now; nothing draws with it")
    for name, row in description["decisions"].items():
        say(f"{name.removesuffix(' type'):<10} {row['value']} ({row['reason']})")
    say(f"auto       {_auto(description)}")
    sizes = "profiles" if description["upscaler"] is None else "tiles"
    say(f"{sizes:<10} {', '.join(description['profiles'])}")
    if kind is None and description["upscaler"] is None:
        _print_sampling(description)
    for name, names in description["unread"].items():
        more = len(names) - _SHOWN_TENSORS
        said = f"{', '.join(names[:_SHOWN_TENSORS])}{f' and {more} more' if more > 0 else ''}"
        say(f"unread     {len(names)} tensors of {name}: {said}")
    print_table(
        "components",
        ("component", "precision", "parameters", "ONNX", "rel. error", "PSNR dB"),
        [
            (
                name,
                _precision(row),
                f"{row['parameters'] / 1e6:.1f} M",
                megabytes(row["onnx_bytes"]),
                f"{row['parity']['relative_error']:.1e}",
                f"{row['parity']['psnr']:.1f}",
            )
            for name, row in description["components"].items()
        ],
    )
    untouched = [name for name, row in description["components"].items() if row["reference"] == Reference.TORCH]
    if len(untouched) < len(description["components"]):
        against = f"; those of {', '.join(untouched)} against torch" if untouched else ""
        without = "it was built of an ONNX file" if description["upscaler"] else _changed_without_torch(description)
        say(f"figures are against {Reference.ONNX.label}, as {without}{against}")
    if description.get("pictures"):
        _print_pictures(description["pictures"], description["precision"])
    for name, row in description["components"].items():
        if row["sparsity"] is not None:
            print_sparsity(name, row["sparsity"], {engine["backend"] for engine in description["engines"]})
        if row["quantization"] is not None:
            _print_quantization(name, ComponentKind(row["kind"]), row["quantization"])
            say(f"{name}: {megabytes(row['remainder_bytes'])} beside its ONNX tell what rounding lost, for LoRAs")
    print_table(
        "engines",
        ("component", "engine", "here", "size", "layers", "PSNR dB"),
        [
            (
                row["component"],
                _engine_name(row),
                _fits(row),
                megabytes(row["bytes"]),
                _layers_by_dtype(row["contents"]),
                f"{row['parity']['psnr']:.1f}" if row["parity"] else "–",
            )
            for row in description["engines"]
        ],
    )
    if description["speed"] is not None:
        print_speed(description["speed"])
    for made in dict.fromkeys((row["backend"], row["version"], row["machine"]) for row in description["engines"]):
        say(f"{made[0]} {made[1]} for {made[2]}")
    shapes = _shape_rows(description["engines"])
    if shapes:
        print_table("compiled shapes", ("component", "profiles", "inputs", "outputs", "layers"), shapes)
    if any(row["parity"] is None and row["changes"] is None for row in description["engines"]):
        say("–: not measured, as it was compiled for another machine; run latentrt verify there")
    unseen = sorted({row["backend"] for row in description["engines"]} & NEVER_RUN)
    if unseen:
        say(f"{', '.join(unseen)}: this version of latentrt was tested on stand-ins for the device, never on one")
    if any(row["contents"] and row["contents"]["unoptimised"] for row in description["engines"]):
        say("not optimised: too little memory was free; run latentrt build again with more")
    if any(row["contents"] and row["contents"]["layers"] for row in description["engines"]):
        say("layers: convolutions and matrix products, by dtype")


def _changed_without_torch(description: dict[str, Any]) -> str:
    pruned = any(row["sparsity"] is not None for row in description["components"].values())
    return "weights were pruned without torch" if pruned else "LoRAs were fused without torch"


def _auto(description: dict[str, Any]) -> str:
    """The backend that draws where nobody names one, and why it is that one."""
    backend, speed = description["auto"], description["speed"]
    if backend is None:
        return "no engine runs on this machine"
    if speed is not None and backend == speed["backend"]:
        return f"{backend} (kept by a build for speed)"
    return str(backend)


def _print_sampling(description: dict[str, Any]) -> None:
    """What a model draws, of what, and what it samples with."""
    schedule, defaults = description["schedule"], description["defaults"]
    if description["task"] != Task.PICTURES:
        say(f"draws      {description['task']}{_fourth_number(description['pose'])}")
    if description["image_encoder"] is not None:
        encoder = description["image_encoder"]
        say(f"sees       a picture of {encoder['size']}x{encoder['size']}, {_RESIZED[Resizing(encoder['resizing'])]}")
    if description["concatenated"] is not None:
        say(f"beside     {_latents_beside(description['concatenated'])}")
    say(f"schedule   {schedule['prediction_type']}, {_noise_levels(schedule)}")
    if description["seamless"] != Seamless.NONE:
        say(f"seamless   {description['seamless']}")
    options = "".join(f" {name}={value}" for name, value in defaults["sampler_options"].items())
    say(
        f"defaults   {defaults['sampler']}{options}, {defaults['num_inference_steps']} steps, "
        f"guidance {defaults['guidance_scale']:g}"
    )


def _fourth_number(pose: dict[str, Any] | None) -> str:
    return "" if pose is None else f"; a pose's fourth number is {_FOURTH[PoseKind(pose['kind'])]}"


def _latents_beside(record: dict[str, Any]) -> str:
    """What lies behind the noised latents."""
    noised = ", with noise as a call says" if record["noised"] else ""
    scaled = "scaled as the others" if record["scaled"] else "unscaled"
    zeroed = "; zeros in the unconditional half" if record["zeroed"] else ""
    return f"latents of the picture{noised}, {scaled}{zeroed}"


def _noise_levels(schedule: dict[str, Any]) -> str:
    """The betas of the timesteps, or EDM's levels."""
    edm = schedule["edm"]
    if edm is None:
        return (
            f"{schedule['beta_schedule']} {schedule['beta_start']:g} to {schedule['beta_end']:g}, "
            f"{schedule['num_train_timesteps']} timesteps"
        )
    return (
        f"EDM: sigma {edm['sigma_min']:g} to {edm['sigma_max']:g}, {edm['sigma_spacing']}, "
        f"sigma_data {edm['sigma_data']:g}"
    )


def _print_pictures(record: dict[str, Any], precision: str) -> None:
    """How good pictures are."""
    say(
        f"{record['pictures']} {precision} pictures of {record['steps']} steps against fp32, drawn with "
        f"{record['drawn_by']}: mean {record['psnr_mean']:.1f} dB, worst {record['psnr_worst']:.1f} dB "
        f"({record['worst_prompt']!r}); required {record['quality']:g} dB"
    )


def _decibels(number: float | None) -> str:
    return "slower" if number is None else f"{number:.1f}"


def _times(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.2f}"


def _print_quantization(component: str, kind: ComponentKind, record: dict[str, Any]) -> None:
    """How good pictures in eight bits are, and the nodes whose rounding costs most, rounded or in floating point."""
    nodes = record["nodes"]
    if record["recipe"] == Recipe.W8:
        say(
            f"{component} with weights in int8: what it makes of {record['prompts']} prompts against fp32: mean "
            f"{record['psnr_mean']:.1f} dB, worst {record['psnr_worst']:.1f} dB ({record['worst_prompt']!r}); required "
            f"{record['quality']:g} dB"
        )
        return
    rounded, precision = sum(node["rounded"] for node in nodes.values()), Recipe(record["recipe"]).numbers.precision
    moved = kind.row.rounding_moves
    of_same = "" if moved == "latents" else ", decoded from the same latents,"
    say(
        f"{component} in {precision} ({record['recipe']}, {record['tool']}): {rounded} of {len(nodes)} nodes; "
        f"{record['pictures']} pictures of {record['steps']} steps{of_same} against fp32: mean "
        f"{record['psnr_mean']:.1f} dB, worst {record['psnr_worst']:.1f} dB ({record['worst_prompt']!r}); required "
        f"{record['quality']:g} dB"
    )
    if (attention := record["attention"]) is not None:
        say(
            f"with its {attention['attentions']} attentions in {precision}, too: mean {attention['psnr_mean']:.1f} dB, "
            f"worst {attention['psnr_worst']:.1f} dB; they {'are' if attention['rounded'] else 'stay as they were'}"
        )
    if record["frontier"]:
        timed = any(point["step"] is not None for point in record["frontier"])
        time = f"time of a call on {record['backend']} in fp32's" if timed else "time of a call on a GPU"
        print_table(
            f"{component}: nodes in floating point, {time}, PSNR",
            ("in floating point", "time", "±", "mean dB", "worst dB", ""),
            [
                (
                    str(point["floating"]),
                    _times(point["step"]),
                    _times(point["spread"]),
                    _decibels(point["psnr_mean"]),
                    _decibels(point["psnr_worst"]),
                    "chosen" if point["floating"] == len(nodes) - rounded else "",
                )
                for point in record["frontier"]
            ],
        )
    worst = sorted(nodes.items(), key=lambda item: -item[1]["score"])[:_SHOWN_NODES]
    print_table(
        f"the {len(worst)} of {len(nodes)} nodes whose rounding moves the {moved} most (score)",
        ("node", "in", "score", "error", "alpha"),
        [
            (
                path,
                precision if node["rounded"] else "float",
                f"{node['score']:.1e}",
                f"{node['error']:.1e}",
                "–" if node["alpha"] is None else f"{node['alpha']:g}",
            )
            for path, node in worst
        ],
    )


def _fits(engine: dict[str, Any]) -> str:
    """Whether an engine runs on this machine."""
    if not engine["seal"]["intact"]:
        return "no, edited"
    return "yes" if engine["fits_this_machine"] else "no"


def _engine_name(engine: dict[str, Any]) -> str:
    """The backend, the GPU architecture of a plan, the inputs that it adds, and what it is to adapters."""
    fixed = engine["contents"] and engine["contents"]["shapes"]
    name = f"{engine['backend']} {gpu_of_machine(engine['machine'])}" if fixed else str(engine["backend"])
    if engine["added"]:
        name += f", with {' and '.join(engine['added'])}"
    if engine["loop"] != "host":
        name += ", whole steps"
    if engine["changes"] is not None:
        return f"{name}, with LoRAs {engine['changes'][:8]}"
    return f"{name}, LoRA-ready" if engine["lora_ready"] else name


def _shape_rows(engines: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows for the tensors of engines of fixed shapes; equal rows of several machines once."""
    rows = []
    for engine in engines:
        for shape in engine["contents"]["shapes"] if engine["contents"] else ():
            tensors = (
                "\n".join(f"{name} ({', '.join(map(str, t['shape']))}) {t['dtype']}" for name, t in shape[side].items())
                for side in ("inputs", "outputs")
            )
            layers = sum(sum(kind.values()) for kind in engine["contents"]["layers"].values())
            rows.append((engine["component"], ", ".join(shape["profiles"]), *tensors, str(layers)))
    return list(dict.fromkeys(rows))


def _layers_by_dtype(contents: dict[str, Any] | None) -> str:
    """The convolutions and matrix products of a typed network by dtype, as in ``98 fp16, 2 fp32``.

    Of OpenVINO it is what its compiled graph computes in, and not what was asked for.
    """
    if contents is None:
        return ""
    if contents["unoptimised"]:
        return "not optimised"
    counts: Counter[str] = Counter()
    for dtype, count in counts_with_weights(contents["layers"]).items():
        counts[_DTYPES.get(dtype, dtype)] += count
    layers = [f"{count} {dtype}" for dtype, count in sorted(counts.items())]
    quantized, sparse = (sum(contents[kind].values()) for kind in ("quantized", "sparse"))
    layers += [f"{quantized} with Q/DQ"] if quantized else []
    layers += [f"{sparse} with zeros 2:4"] if sparse else []
    return ", ".join(layers)


def _precision(component: dict[str, Any]) -> str:
    """A component's precision, and how many of its nodes stay in fp32: ``fp16 + 8 fp32``."""
    kept = sum(component["islands"].values())
    return f"{component['precision']} + {kept} fp32" if kept else str(component["precision"])

"""Nets and other files that are no add-on of ours, refused by name before torch is needed."""

import re
from collections.abc import Set
from pathlib import Path

from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.addons.files import AddonFiles
from latentrt.export.sources.addons.place import EXPECTED
from latentrt.export.sources.foreign.models import ForeignModel, model_without_unet
from latentrt.export.sources.single_file.unet_structure import DIFFUSERS, LDM
from latentrt.models import EMBEDDED_MODELS

_MODEL = "leave --for out to build a model"
_LORA = "give it to a call with loras=…, or fuse it into a model with --lora"
_XS = "it exchanges with the U-Net at every block, which needs an export of both together: use a ControlNet instead"
# Nets of other designs, looked for before ours: some hold tensors of ours, too
_OTHER_NETS = (
    ForeignModel(
        name="a ControlNet-XS",
        pattern=r"(^|\.)(ctrl_to_base|base_to_ctrl|base_to_control)\.|(^|\.)(enc|dec)_zero_convs_(in|out)\.",
        advice=_XS,
    ),
    ForeignModel(
        name="a ControlNet-LLLite",
        pattern=r"(^|\.)lllite_",
        advice="it changes what attention layers take, which no rewrite of ours does: use a ControlNet instead",
    ),
    ForeignModel(name="a ControlNeXt", pattern=r"^mid_convs\.\d|^controlnext\.", advice="use a ControlNet instead"),
    ForeignModel(
        name="a BrushNet",
        pattern=r"(^|\.)brushnet_(down|mid|up)_block|^conv_in_condition\.",
        advice="use a ControlNet for inpainting instead",
    ),
    ForeignModel(
        name="a Uni-ControlNet", pattern=r"^(model\.)?(local|global)_adapter\.", advice="use a ControlNet instead"
    ),
    ForeignModel(
        name="a SparseCtrl net of AnimateDiff",
        pattern=r"motion_modules\.|^controlnet\..*temporal",
        advice="use a ControlNet for pictures instead",
    ),
    ForeignModel(
        name="a ControlNet for Flux or Stable Diffusion 3",
        pattern=r"^(controlnet_)?(single_)?(controlnet_)?blocks\.\d+\.(weight|attn)|^controlnet_(single_)?blocks\.\d"
        r"|(^|\.)joint_blocks\.|(^|\.)(double|single)_blocks\.\d|^pos_embed_input\.|(^|\.)transformer_blocks\.0\.norm1_c",
    ),
    ForeignModel(name="a ControlNet of HunyuanDiT, Kolors or another family", pattern=r"^encoder_hid_proj\.|^mlp_t5\."),
    ForeignModel(
        name="a T2I-Adapter for styles, or one that fuses several",
        pattern=r"^style_embedding$|^(spatial_feat_mapping|seq_proj|fuser)\.",
        advice="use a T2I-Adapter of a control picture, or an IP-Adapter",
    ),
    ForeignModel(
        name="a PhotoMaker", pattern=r"^id_encoder\.|^qformer_perceiver\.", advice="use an IP-Adapter instead"
    ),
    ForeignModel(name="an ELLA", pattern=r"^connector\.resampler\.", advice="choose a net of the kinds above"),
)
# Classes of diffusers and what they are
_OTHER_CLASSES = {
    "ControlNetXSAdapter": ("a ControlNet-XS", _XS),
    "UNetControlNetXSModel": ("a ControlNet-XS with its U-Net", _XS),
    "SparseControlNetModel": ("a SparseCtrl net of AnimateDiff", "use a ControlNet for pictures instead"),
    "MultiControlNetModel": ("several ControlNets", "build each of them"),
    "MultiAdapter": ("several T2I-Adapters", "build each of them"),
}
_REFERENCE = re.compile(r"reference[-_ ]?(only|adain(\+attn)?|control)", re.IGNORECASE)
_ADVICE_FOR = {
    "a LoRA": _LORA,
    "a LyCORIS (a relative of LoRA)": _LORA,
    "an upscaler (ESRGAN or a relative)": "leave --for out to build it: it is for no particular model",
    "a textual inversion": "load it into a pipeline with load_textual_inversion",
}


def check_name(net: str) -> None:
    """Refuses what is known before it is looked into.

    Raises:
        CheckpointError: a way of drawing that needs no net, the embedded model, or a model's bundle.
    """
    bundle = (Path(net) / BUNDLE_FILE).is_file()
    if bundle or (net in EMBEDDED_MODELS and not Path(net).exists()):
        kind = "the bundle of a model" if bundle else "an embedded model"
        raise CheckpointError(f"got {net!r}, {kind}, expected {EXPECTED}; give a net, or leave --for out")
    if _REFERENCE.fullmatch(net.strip()):
        raise CheckpointError(
            f"got {net!r}, a way of drawing without weights of its own that latentrt does not have, expected "
            f"{EXPECTED}; use an IP-Adapter to draw after a picture"
        )


def check_class(files: AddonFiles, known: Set[str]) -> None:
    """Refuses a folder whose config names another class.

    Raises:
        CheckpointError: naming it.
    """
    name = files.class_name
    if name is None or name in known or (name == "model without a class" and files.place.path.is_file()):
        return
    kind, advice = _OTHER_CLASSES.get(name, (f"a {name}", "choose such a net"))
    if name in ("UNet2DConditionModel", "AutoencoderKL"):
        advice = "give it without --for, as a model or a part of one"
    raise _refused(files, kind, advice)


def check_tensors(files: AddonFiles) -> None:
    """Refuses nets of other designs.

    Raises:
        CheckpointError: naming the design.
    """
    names = "\n".join(files.shapes)
    for row in _OTHER_NETS:
        if re.search(row.pattern, names, re.MULTILINE):
            raise _refused(files, row.name, row.advice)


def unknown(files: AddonFiles) -> CheckpointError:
    """That a file holds no add-on: a whole model, a LoRA, something of another kind, or what no row knows."""
    shapes = files.shapes
    prefixes = ("model.diffusion_model.", "unet.", "", "diffusion_model.")
    if any(all(prefix + mark in shapes for mark in layout.marks) for prefix in prefixes for layout in (LDM, DIFFUSERS)):
        return _refused(files, "a whole model or its U-Net", _MODEL)
    foreign = model_without_unet(shapes)
    if foreign is not None:
        return _refused(files, foreign.name, _ADVICE_FOR.get(foreign.name, "choose such a net"))
    first = ", ".join(list(shapes)[:3]) or "none"
    return _refused(files, f"which holds no net that is known (its first tensors are {first})", "choose such a net")


def _refused(files: AddonFiles, kind: str, advice: str) -> CheckpointError:
    return CheckpointError(f"got {files.source!r}, {kind}, expected {EXPECTED}; {advice}")

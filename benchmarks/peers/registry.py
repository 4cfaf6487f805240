"""The peers by name: their adapters, and the environments of those whose pins clash with ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SAMPLER, EULER = "DPM++ 2M, Karras", "Euler"
"""What everyone draws by, and what those do that do not have it."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A peer.

    ``requirements`` are pip's, None for our own environment, which ``home`` names otherwise; ``alone`` are installed
    without what they ask for. ``converter`` is the adapter that converts the checkpoint once before it is opened.
    ``first`` says that it is opened for the shapes of a certain draw, which its options then hold beside ``options``;
    ``given_noise`` that its own noise is not PyTorch's, and that it takes that from a file.
    """

    title: str
    adapter: str
    precision: str
    home: str | None = None
    requirements: tuple[str, ...] | None = None
    alone: tuple[str, ...] = ()
    converter: str | None = None
    first: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = SAMPLER
    given_noise: bool = False


# torchvision, which optimum-intel asks for, has no build for CPUs there, and is not needed to draw
_OPENVINO = (
    "torch==2.13.0",
    "optimum==2.3.0",
    "transformers==5.5.0",
    "diffusers==0.39.0",
    "accelerate==1.15.0",
    "nncf==3.4.0",
    "openvino==2026.4.1",
    "openvino-genai==2026.4.1.0",
    "openvino-tokenizers==2026.4.1.0",
    "datasets==5.0.1",
    "huggingface-hub==1.21.0",
    "requests==2.34.2",
    "setuptools==84.2.1",
)
_OPENVINO_ALONE = ("optimum-intel==2.2.0",)
_OPTIMUM_ONNX = (
    "torch==2.13.0",
    "optimum-onnx==0.1.0",
    "optimum==2.1.0",
    "transformers==4.57.6",
    "diffusers==0.39.0",
    "accelerate==1.15.0",
    "onnx==1.23.2",
    "onnxruntime==1.31.1",
)

_PINNED = {"hint": "f32"}  # what OpenVINO computes in otherwise is for the processor to say


def _openvino(title: str, adapter: str = "openvino_optimum", **fields: Any) -> Peer:
    """A peer in the environment of OpenVINO's."""
    return Peer(
        title=title,
        adapter=adapter,
        home="openvino",
        requirements=_OPENVINO,
        alone=_OPENVINO_ALONE,
        first=True,
        **{"precision": "fp32", "converter": adapter, **fields},
    )


OURS = "latentrt_bundle"
REFERENCE = "diffusers"
PEERS: Mapping[str, Peer] = {
    REFERENCE: Peer(title="diffusers", adapter="diffusers_eager", precision="fp32"),
    "diffusers-bf16": Peer(title="diffusers, bf16", adapter="diffusers_bf16", precision="bf16"),
    "diffusers-compile": Peer(title="diffusers, torch.compile", adapter="diffusers_compile", precision="fp32"),
    "optimum-onnx": Peer(
        title="optimum-onnx",
        adapter="optimum_onnx",
        precision="fp32",
        home="optimum-onnx",
        requirements=_OPTIMUM_ONNX,
        converter="optimum_onnx",
    ),
    "openvino": _openvino("OpenVINO"),
    "openvino-f32": _openvino("OpenVINO, f32", options=_PINNED),
    "openvino-int8": _openvino("OpenVINO, NNCF int8", precision="int8", converter="openvino_int8"),
    "openvino-int8-f32": _openvino(
        "OpenVINO, NNCF int8, f32", precision="int8", converter="openvino_int8", options=_PINNED
    ),
    "openvino-genai": _openvino("OpenVINO GenAI", adapter="openvino_genai", sampler=EULER, given_noise=True),
    "sd-cpp": Peer(
        title="stable-diffusion.cpp",
        adapter="stable_diffusion_cpp",
        precision="fp32",
        home="sd-cpp",
        requirements=("cyllama==0.2.18", "numpy==2.4.6", "pillow==13.0.0"),
        converter="stable_diffusion_cpp",
    ),
}

"""The peers by name: their adapters, and the environments of those whose pins clash with ours."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A peer.

    ``requirements`` are pip's, None for our own environment; ``alone`` are installed without what they ask for.
    ``converts`` says that the checkpoint is converted once before it is opened, ``first`` that it is opened for the
    shapes of a certain draw, which its options then hold.
    """

    title: str
    adapter: str
    precision: str
    requirements: tuple[str, ...] | None = None
    alone: tuple[str, ...] = ()
    converts: bool = False
    first: bool = False


# torchvision, which optimum-intel asks for, has no build for CPUs there, and is not needed to draw
_OPENVINO = (
    "torch==2.13.0",
    "optimum==2.3.0",
    "transformers==5.5.0",
    "diffusers==0.39.0",
    "accelerate==1.15.0",
    "nncf==3.4.0",
    "openvino==2026.4.1",
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

OURS = "latentrt_bundle"
REFERENCE = "diffusers"
PEERS: Mapping[str, Peer] = {
    REFERENCE: Peer(title="diffusers", adapter="diffusers_eager", precision="fp32"),
    "diffusers-compile": Peer(title="diffusers, torch.compile", adapter="diffusers_compile", precision="fp32"),
    "optimum-onnx": Peer(
        title="optimum-onnx", adapter="optimum_onnx", precision="fp32", requirements=_OPTIMUM_ONNX, converts=True
    ),
    "openvino": Peer(
        title="OpenVINO",
        adapter="openvino_fp32",
        precision="fp32",
        requirements=_OPENVINO,
        alone=_OPENVINO_ALONE,
        converts=True,
        first=True,
    ),
    "openvino-int8": Peer(
        title="OpenVINO, NNCF int8",
        adapter="openvino_int8",
        precision="int8",
        requirements=_OPENVINO,
        alone=_OPENVINO_ALONE,
        converts=True,
        first=True,
    ),
    "sd-cpp": Peer(
        title="stable-diffusion.cpp",
        adapter="stable_diffusion_cpp",
        precision="fp32",
        requirements=("cyllama==0.2.18", "numpy==2.4.6", "pillow==13.0.0"),
        converts=True,
    ),
}

"""OpenVINO in int8 by NNCF: weights of all, and the U-Net's activations, calibrated while it draws ("hybrid")."""

from collections.abc import Mapping
from pathlib import Path

from latentrt.benchmarks.peers.older_names import with_older_names
from latentrt.benchmarks.peers.openvino_fp32 import Contender as Float32

# What is calibrated on; NNCF's own choice is a data set that it would have to fetch
_PROMPTS = (
    "a red apple on a wooden table", "the face of a smiling cat", "a sunflower under a blue sky", "a frog on a leaf",
    "a small boat on a calm lake", "an octopus", "a strawberry", "a street in the rain at night",
)  # fmt: skip

_SAMPLES = 64  # calls of the U-Net


def prepare(checkpoint: str, folder: Path) -> None:
    """Exports and quantizes the checkpoint."""
    from optimum.intel import OVStableDiffusionPipeline, OVWeightQuantizationConfig

    wanted = OVWeightQuantizationConfig(bits=8, quant_method="hybrid", dataset=list(_PROMPTS), num_samples=_SAMPLES)
    with with_older_names(checkpoint, folder) as older:
        pipe = OVStableDiffusionPipeline.from_pretrained(
            older, export=True, quantization_config=wanted, safety_checker=None
        )
        pipe.save_pretrained(folder)


class Contender(Float32):
    """A quantized checkpoint; what is not int8 is computed in float32."""

    settings: Mapping[str, str] = {"INFERENCE_PRECISION_HINT": "f32"}
    precision = "int8"

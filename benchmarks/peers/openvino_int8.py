"""OpenVINO in int8 by NNCF: weights of all, and the U-Net's activations, calibrated while it draws ("hybrid")."""

from pathlib import Path

from latentrt.benchmarks.peers.older_names import export

# What is calibrated on; NNCF's own choice is a data set that it would have to fetch
_PROMPTS = (
    "a red apple on a wooden table", "the face of a smiling cat", "a sunflower under a blue sky", "a frog on a leaf",
    "a small boat on a calm lake", "an octopus", "a strawberry", "a street in the rain at night",
)  # fmt: skip

_SAMPLES = 64  # calls of the U-Net


def prepare(checkpoint: str, folder: Path) -> None:
    """Exports and quantizes the checkpoint; ``openvino_optimum`` draws with it."""
    from optimum.intel import OVStableDiffusionPipeline, OVWeightQuantizationConfig

    hybrid = OVWeightQuantizationConfig(bits=8, quant_method="hybrid", dataset=list(_PROMPTS), num_samples=_SAMPLES)
    export(OVStableDiffusionPipeline, checkpoint, folder, quantization_config=hybrid)

"""The inputs of control nets and T2I-Adapters."""

from typing import TYPE_CHECKING

from latentrt.engines.bundle.unet_structure import UnetStructure

if TYPE_CHECKING:
    import onnx_ir as ir


def add_control_inputs(model: "ir.Model", structure: UnetStructure, optional: bool) -> None:
    """Adds ``down_residual_<i>``, ``mid_residual`` and ``feature_<i>`` to a U-Net's graph, in place."""
    raise NotImplementedError

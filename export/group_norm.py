"""GroupNormalization written with InstanceNormalization, which every backend has a kernel for.

ONNX Runtime's CPU provider has none for GroupNormalization. It expands each into a dozen nodes and takes the variance as
E[x²] − E[x]², which costs three digits over the million numbers of a group in a large picture.
"""

from typing import Any

import numpy as np


def use_instance_norm(model: Any) -> None:
    """Rewrites every GroupNormalization of an ``onnx_ir.Model`` in place.

    x (B, C, …) is normalised as (B, groups, C / groups · …), scaled and shifted as (B, C, …), and brought back
    (arXiv 1803.08494, section 3.1).
    """
    import onnx_ir as ir

    graph = model.graph

    def constant(name: str, array: Any) -> Any:
        if name not in graph.initializers:  # norms may share weights
            tensor = ir.tensor(array, name=name)
            graph.register_initializer(
                ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
            )
        return graph.initializers[name]

    for node in list(graph):
        if node.op_type != "GroupNormalization":
            continue
        x, *of_channels = node.inputs
        groups, epsilon = node.attributes["num_groups"].value, node.attributes["epsilon"].value
        grouped = constant(f"group_norm.shape.{groups}", np.array([0, groups, -1], np.int64))
        ones = constant(f"group_norm.ones.{groups}", np.ones(groups, np.float32))
        zeros = constant(f"group_norm.zeros.{groups}", np.zeros(groups, np.float32))
        scale, bias = (
            constant(f"{value.name}.per_channel", value.const_value.numpy().reshape(-1, 1)) for value in of_channels
        )
        result, replaced = node.outputs[0], []

        def add(
            kind: str,
            inputs: list[Any],
            attributes: Any = (),
            *,
            result: Any = result,
            replaced: list[Any] = replaced,
            node: Any = node,
            dtype: Any = ir.DataType.FLOAT,
        ) -> Any:
            name = f"{result.name}.{kind}.{len(replaced)}"
            output = ir.Value(name=name, type=ir.TensorType(dtype))
            new = ir.Node("", kind, inputs, attributes, outputs=[output], name=f"node_{name}")
            new.metadata_props.update(node.metadata_props)
            replaced.append(new)
            return output

        shape = add("Shape", [x], dtype=ir.DataType.INT64)
        folded = add("Reshape", [x, grouped])
        unit = add("InstanceNormalization", [folded, ones, zeros], [ir.AttrFloat32("epsilon", epsilon)])
        channels = of_channels[0].const_value.shape[0]
        by_channel = constant(f"group_norm.channels.{channels}", np.array([0, channels, -1], np.int64))
        scaled = add("Mul", [add("Reshape", [unit, by_channel]), scale])
        add("Reshape", [add("Add", [scaled, bias]), shape])
        graph.insert_before(node, replaced)
        last = replaced[-1].outputs[0]
        for user, index in list(result.uses()):
            user.replace_input_with(index, last)
        for index, output in enumerate(graph.outputs):
            if output is result:
                graph.outputs[index] = last
        graph.remove(node, safe=True)
        last.name = result.name
        for value in of_channels:
            if not value.uses() and value.name in graph.initializers:
                del graph.initializers[value.name]

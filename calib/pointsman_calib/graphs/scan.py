"""Experts gathered one token at a time, by a Scan, so that portable decoders can run over whole targets.

A decoding step gathers the weights of each token's expert and multiplies with all of them at once. Of a target of 130
tokens that is 1.2 GB for one product of switch-base-8. A Scan over the tokens holds the weights of one, and computes
the same.
"""

import onnx_ir as ir


def gather_by_token(graph: ir.Graph) -> None:
    """Put a `Scan` in the place of each product with gathered weights, in place."""
    for node in list(graph):
        gather = _gather(node)
        if gather is not None:
            scan = _scan(node, gather)
            (old,), (new,) = node.outputs, scan.outputs
            new.name, new.shape, new.type = old.name, old.shape, old.type
            ir.convenience.replace_nodes_and_values(graph, node, [node], [scan], [old], [new])
            if not gather.outputs[0].uses():
                graph.remove(gather, safe=True)


def _gather(node: ir.Node) -> ir.Node | None:
    """The node that gathers what another multiplies with; None where it multiplies with something else."""
    weights = node.inputs[1] if node.op_type == "MatMul" else None
    producer = weights.producer() if weights is not None else None
    return producer if producer is not None and producer.op_type == "Gather" else None


def _scan(product: ir.Node, gather: ir.Node) -> ir.Node:
    """Rows [tokens, 1, inputs] and experts [tokens], one of each at a time, to [tokens, 1, outputs]."""
    rows, (weights, experts) = product.inputs[0], gather.inputs
    expert = ir.Value(name=f"{gather.name}/expert", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    row = ir.Value(name=f"{product.name}/row", type=_type_of(weights))
    gathered = ir.node("Gather", [weights, expert], {"axis": 0}, name=f"{gather.name}/one")
    multiplied = ir.node("MatMul", [row, gathered.outputs[0]], name=f"{product.name}/one")
    for inner in (gathered, multiplied):
        inner.outputs[0].name, inner.outputs[0].type = f"{inner.name}:0", _type_of(weights)
    body = ir.Graph([expert, row], multiplied.outputs, nodes=[gathered, multiplied], name=f"{product.name}/by_token")
    return ir.node("Scan", [experts, rows], {"body": body, "num_scan_inputs": 2}, name=f"{product.name}/Scan")


def _type_of(weights: ir.Value | None) -> ir.TypeProtocol | None:
    return None if weights is None else weights.type

"""What a bundle's graphs read of their weights, counted in the graphs: whatever a scheme makes of a weight is counted.

Rows that are looked up are not counted, of experts only as many as tokens reach. Where a graph chooses between forms of
a weight, the smallest counts: the least that must be read.
"""

from pathlib import Path

import onnx_ir as ir

from pointsman.bundle import Role, names, read_manifest

_LOOKS_UP = "Gather"


def bytes_read(bundle: Path, variant: str, role: Role, experts_hit: float) -> float:
    """Bytes of weights that one run of a graph reads.

    Args:
        bundle: a bundle.
        variant: of it, of the fused form: where each expert has its own weights.
        role: of the graph.
        experts_hit: how many experts of a sparse layer the tokens of a run reach.
    """
    manifest = read_manifest(bundle)
    model = ir.load(bundle / manifest.variants[variant].graph(role).file)
    experts = max(1, manifest.architecture.num_experts)
    return sum(
        size * (experts_hit / experts if names.experts_layer(name) else 1.0)
        for name, size in _weights(model.graph).items()
    )


def _weights(graph: ir.Graph) -> dict[str, int]:
    """Bytes of each constant that nodes multiply with, by name; those of branches too."""
    found: dict[str, int] = {}
    for node in graph:
        graphs = [each.as_graph() for each in node.attributes.values() if each.type == ir.AttributeType.GRAPH]
        if branches := [branch for branch in map(_weights, graphs) if branch]:
            least: dict[str, int] = min(branches, key=_total)
            found.update(least)
        for value in () if node.op_type.startswith(_LOOKS_UP) else node.inputs:
            if value is not None and value.const_value is not None:
                found[str(value.name)] = value.const_value.nbytes
    return found


def _total(sizes: dict[str, int]) -> int:
    return sum(sizes.values())

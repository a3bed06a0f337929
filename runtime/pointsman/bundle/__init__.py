"""The contract between exporter, calibrator and runtime: what a bundle is, as frozen dataclasses and `manifest.json`.

A bundle is a directory::

    manifest.json
    tokenizer/tokenizer.json                      with tokenizer_config.json; some older bundles hold spiece.model
    variants/<precision>/weights.bin              every tensor once, shared by all graphs of that precision
    variants/<precision>/<form>.encoder.onnx
    variants/<precision>/<form>.decoder.onnx
    engines/<flavour>-sm<capability>/<variant>/<role>.plan    such as engines/tensorrt-rtx-sm89/portable-float32/

The manifest holds the hashes of all other files and of its own content. Readers refuse newer schemas and unknown keys,
and report every problem at once.
"""

from pointsman.bundle import names
from pointsman.bundle.architecture import Activation, Architecture, Stack
from pointsman.bundle.files import FileRecord, record_of, sha256_of, verified, verify_files
from pointsman.bundle.generation import GenerationSettings
from pointsman.bundle.interface import (
    CAPACITY_MULTIPLE,
    ROLES,
    SOURCE_BLOCK,
    Axis,
    Dtype,
    Graph,
    Role,
    TensorSpec,
    attending,
    attention_heads,
    cache_capacity,
    cache_positions,
    decoder_specs,
    empty_cache,
    encoder_specs,
    side_by_side,
    source_blocks,
    whole_targets,
)
from pointsman.bundle.manifest import SCHEMA, Limits, Manifest, Source, installed_versions
from pointsman.bundle.plans import AxisRange, Flavour, PlanOptions, PlanRecord, Profile
from pointsman.bundle.quantization import (
    ActivationRanges,
    Calibration,
    ExpertCoverage,
    Fidelity,
    Quantization,
    Scheme,
    Sensitivity,
)
from pointsman.bundle.storage import read_manifest, write_manifest
from pointsman.bundle.variants import Form, Parity, Precision, Variant

__all__ = [
    "CAPACITY_MULTIPLE",
    "ROLES",
    "SCHEMA",
    "SOURCE_BLOCK",
    "Activation",
    "ActivationRanges",
    "Architecture",
    "Axis",
    "AxisRange",
    "Calibration",
    "Dtype",
    "ExpertCoverage",
    "Fidelity",
    "FileRecord",
    "Flavour",
    "Form",
    "GenerationSettings",
    "Graph",
    "Limits",
    "Manifest",
    "Parity",
    "PlanOptions",
    "PlanRecord",
    "Precision",
    "Profile",
    "Quantization",
    "Role",
    "Scheme",
    "Sensitivity",
    "Source",
    "Stack",
    "TensorSpec",
    "Variant",
    "attending",
    "attention_heads",
    "cache_capacity",
    "cache_positions",
    "decoder_specs",
    "empty_cache",
    "encoder_specs",
    "installed_versions",
    "names",
    "read_manifest",
    "record_of",
    "sha256_of",
    "side_by_side",
    "source_blocks",
    "verified",
    "verify_files",
    "whole_targets",
    "write_manifest",
]

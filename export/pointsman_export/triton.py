"""Bundles as models of NVIDIA's Triton Inference Server: a folder of a model repository, for its Python backend."""

import re
import shutil
from pathlib import Path
from typing import Final

from pointsman.bundle import read_manifest
from pointsman.bundle.writing import check_writable, is_vacant, replacing
from pointsman.errors import BundleError, OptionsError, OutputExistsError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION: Final = "1"
_BUNDLE: Final = "bundle"
_MODEL: Final = '''"""A bundle that Pointsman serves; it must be installed where Triton's Python backend runs."""

from pointsman.serving.triton import TritonModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_CONFIG: Final = """name: "{name}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input [
  {{ name: "text_input" data_type: TYPE_STRING dims: [ -1 ] }}
]
output [
  {{ name: "text_output" data_type: TYPE_STRING dims: [ -1, -1 ] }},
  {{ name: "score" data_type: TYPE_FP32 dims: [ -1, -1 ] }},
  {{ name: "spans" data_type: TYPE_STRING dims: [ -1, -1 ] }}
]
instance_group [ {{ count: 1 kind: {kind} }} ]
parameters {{ key: "bundle" value: {{ string_value: "{bundle}" }} }}
parameters {{ key: "variant" value: {{ string_value: "{variant}" }} }}
"""


def export_triton(
    bundle: str | Path,
    repository: str | Path,
    *,
    name: str | None = None,
    variant: str = "auto",
    gpu: bool = False,
    force: bool = False,
) -> Path:
    """Write a bundle into a model repository.

    Args:
        bundle: Its folder. Its files are linked where the file system can, and copied otherwise.
        repository: Where models lie; other models in it stay.
        name: The model's; the bundle's where None.
        variant: Which variant runs.
        gpu: Whether it runs on a GPU.
        force: Whether a model of this name may be replaced.

    Returns:
        The model's folder.

    Raises:
        BundleNotFoundError: There is no bundle.
        BundleError: It is damaged, or lacks the variant.
        OptionsError: The name is none that Triton takes.
        OutputExistsError: The model is there.
        OutputError: The disk is full or refuses.
    """
    source = Path(bundle)
    manifest = read_manifest(source)
    if variant != "auto" and variant not in manifest.variants:
        raise BundleError(f"{source} has no variant {variant}; it has {', '.join(manifest.variants)}")
    model = name or source.absolute().name
    if not _NAME.fullmatch(model):
        raise OptionsError(f"{model!r} is no name of a model; use letters, digits, dots, dashes and underscores")
    target = Path(repository) / model
    if target.exists() and not (force or (target.is_dir() and is_vacant(target))):
        raise OutputExistsError(f"{target} is already there; replace it with `force=True`")
    check_writable(target)
    config = _CONFIG.format(name=model, kind="KIND_GPU" if gpu else "KIND_CPU", bundle=_BUNDLE, variant=variant)
    with replacing(target) as folder:
        version = folder / _VERSION
        version.mkdir()
        (version / "model.py").write_text(_MODEL, encoding="utf-8")
        shutil.copytree(source, version / _BUNDLE)  # no links: ONNX Runtime refuses linked weights
        (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    return target

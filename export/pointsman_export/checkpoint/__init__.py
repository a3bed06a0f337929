"""Open a Switch Transformers checkpoint, whatever its layout, and read it one tensor at a time.

Layouts: ``model.safetensors`` or ``pytorch_model.bin``, whole or in shards with an index, in a folder or on
the Hugging Face hub; T5X's originals; float32, bfloat16, float16 and mixtures of them. Nothing is read before it
is asked for, and what was read leaves no resident memory behind.
"""

from pointsman_export.checkpoint.fingerprint import Fingerprinted
from pointsman_export.checkpoint.folder import Checkpoint
from pointsman_export.checkpoint.reader import CanonicalReader, TensorReader
from pointsman_export.checkpoint.stored import NUMPY_DTYPES, TensorInfo, check_finite, not_finite

__all__ = [
    "NUMPY_DTYPES",
    "CanonicalReader",
    "Checkpoint",
    "Fingerprinted",
    "TensorInfo",
    "TensorReader",
    "check_finite",
    "not_finite",
]

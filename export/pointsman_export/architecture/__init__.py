"""What a checkpoint's tensors say the model is.

``config.json`` is a hint for what tensors cannot tell (capacity, epsilon, token ids); where it contradicts them
the tensors win, and the contradiction is reported. Published configs are wrong: that of switch-c-2048 speaks of
twelve decoder blocks, none of them sparse, where the weights have fifteen sparse ones.
"""

from pointsman_export.architecture.derivation import Derivation, derive, derive_from
from pointsman_export.architecture.generation import generation_from
from pointsman_export.architecture.tensors import expected_tensors
from pointsman_export.architecture.unneeded import refuse_unused

__all__ = [
    "Derivation",
    "derive",
    "derive_from",
    "expected_tensors",
    "generation_from",
    "refuse_unused",
]

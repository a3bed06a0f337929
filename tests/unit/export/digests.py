"""What a checkpoint's tensors hash to."""

from pointsman_export.checkpoint import Checkpoint, Fingerprinted


def digest(checkpoint: Checkpoint) -> str:
    """Of all its tensors; its files are closed again."""
    reader = Fingerprinted(checkpoint)
    with checkpoint:
        for name in checkpoint.tensors:
            reader.read(name)
    return reader.sha256

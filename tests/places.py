"""Where tests find things: the project, its examples, and data beside it that may be absent."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
EXAMPLES: Final = ROOT / "examples"
SHARED_DATA: Final = ROOT.parent / "shared" / "data"

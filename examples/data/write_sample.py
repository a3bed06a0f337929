"""Write the C4 sample: `train.txt` and `validation.txt` as gzipped records of C4's form.

The documents were written for this project and are under its licence. They are separated by blank lines, a document's
own lines are kept. Run it after changing them: `python examples/data/write_sample.py`.
"""

import gzip
import json
from pathlib import Path

FOLDER = Path(__file__).parent


def records(split: str) -> str:
    """The documents of one split as JSON lines; time and address are made up."""
    documents = (FOLDER / f"{split}.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return "".join(
        json.dumps(
            {
                "text": text,
                "timestamp": "2025-01-01T00:00:00Z",
                "url": f"https://example.org/pointsman/{split}/{number}",
            }
        )
        + "\n"
        for number, text in enumerate(documents)
    )


def main() -> None:
    """Write both files, the same bytes every time."""
    for split in ("train", "validation"):
        data = gzip.compress(records(split).encode(), mtime=0)
        (FOLDER / f"c4-sample-{split}.json.gz").write_bytes(data)


if __name__ == "__main__":
    main()

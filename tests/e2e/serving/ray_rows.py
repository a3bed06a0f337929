"""Rows of texts in files, as tests of files on Ray write them."""

import json

TEXT = "The <extra_id_0> walks in <extra_id_1> park."
TEXTS = [TEXT, "Once upon a <extra_id_0>.", "A <extra_id_0> day."] * 7
GOOD = [{"number": number, "text": text} for number, text in enumerate(TEXTS[:3])]


def as_lines(rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def write_rows(path, rows):
    import pyarrow as pa
    import pyarrow.parquet

    if path.suffix == ".jsonl":
        path.write_text(as_lines(rows))
    else:
        pa.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    return path

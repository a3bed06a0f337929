"""Texts for files of lines."""

VOCAB = 128
TEXTS = [f"{'long ' * (number % 5)}<extra_id_0> walks" for number in range(40)]


def lines(texts=TEXTS) -> str:
    return "".join(f"{text}\n" for text in texts)

"""What a command said on stderr."""


def lines(capsys) -> list[str]:
    """On stderr, but for progress."""
    return [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line and "%|" not in line]


def fits(line: str, pattern: str) -> bool:
    """Whether a line is the pattern, whose stars stand for anything."""
    place = 0
    for number, part in enumerate(pattern.split("*")):
        found = line.find(part, place)
        if found < 0 or (number == 0 and found != 0):
            return False
        place = found + len(part)
    return pattern.endswith("*") or place == len(line)

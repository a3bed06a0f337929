"""HTML and SVG elements as text; what is not markup already is escaped."""

from html import escape


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | float) -> Markup:
    """An element.

    Args:
        tag: its name.
        children: markup as it is, other text escaped.
        attributes: by name; ``class_`` is ``class``, other underscores are hyphens, numbers have two decimals at most.
    """
    shown = "".join(f' {_attribute(name)}="{escape(_text(value))}"' for name, value in attributes.items())
    return Markup(f"<{tag}{shown}>{joined(*children)}</{tag}>")


def joined(*children: str) -> Markup:
    """Markup and text, one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")

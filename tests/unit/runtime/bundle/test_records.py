"""Records and JSON: there and back, and every way in which a document can be wrong."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from pointsman.bundle.records import from_json, to_json


@dataclass(frozen=True)
class Wheel:
    spokes: int
    radius: float


@dataclass(frozen=True)
class Cart:
    name: str
    colour: Literal["red", "blue"]
    load: int | None
    open: bool
    wheels: tuple[Wheel, ...]
    labels: dict[str, str]
    axes: tuple[str | int, ...]
    tolls: list[float]


CART = Cart("é", "red", None, True, (Wheel(5, 0.5), Wheel(6, 1.0)), {"a": "b"}, ("rows", 4), [0.1, 2.0])
DOCUMENT = to_json(CART)


def test_there_and_back():
    assert from_json(Cart, json.loads(json.dumps(DOCUMENT))) == (CART, [])


def test_a_whole_number_serves_as_a_float():
    wheel, problems = from_json(Wheel, {"spokes": 5, "radius": 1})
    assert (wheel, problems) == (Wheel(5, 1.0), [])
    assert isinstance(wheel.radius, float)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"extra": 1}, "extra is unknown"),
        ({"name": 5}, "name must be str, not 5"),
        ({"name": None}, "name must be str, not None"),
        ({"colour": "green"}, "colour must be one of 'red', 'blue', not 'green'"),
        ({"colour": ["red"]}, "colour must be one of 'red', 'blue', not ['red']"),
        ({"load": "heavy"}, "load must be int, not 'heavy'"),
        ({"load": True}, "load must be int, not True"),
        ({"load": 1.5}, "load must be int, not 1.5"),
        ({"open": 1}, "open must be bool, not 1"),
        ({"wheels": {}}, "wheels must be a list, not {}"),
        ({"wheels": [7]}, "wheels[0] must be an object, not 7"),
        ({"wheels": [{"spokes": 5, "radius": "x"}]}, "wheels[0].radius must be float, not 'x'"),
        ({"wheels": [{"spokes": 5, "radius": True}]}, "wheels[0].radius must be float, not True"),
        ({"wheels": [{"spokes": 5}]}, "wheels[0].radius is missing"),
        ({"wheels": [{"spokes": 5, "radius": 1.0, "rim": 2}]}, "wheels[0].rim is unknown"),
        ({"labels": []}, "labels must be an object, not []"),
        ({"labels": {"a": 1}}, "labels.a must be str, not 1"),
        ({"axes": ["rows", 1.5]}, "axes[1] must be str, not 1.5"),
        ({"tolls": "x"}, "tolls must be a list, not 'x'"),
        ({"tolls": [0.5, None]}, "tolls[1] must be float, not None"),
        ({"name": ["x" * 1000]}, "name must be str, not ['" + "x" * 38),
    ],
)
def test_each_problem_is_told_with_its_place(changes, problem):
    assert from_json(Cart, DOCUMENT | changes) == (None, [problem])


def test_all_problems_at_once():
    document = DOCUMENT | {"extra": 1, "open": "yes", "wheels": [{"spokes": "five"}]}
    del document["name"]
    cart, problems = from_json(Cart, document)
    assert cart is None
    assert problems == [
        "extra is unknown",
        "name is missing",
        "open must be bool, not 'yes'",
        "wheels[0].radius is missing",
        "wheels[0].spokes must be int, not 'five'",
    ]


@dataclass(frozen=True)
class Sledge:
    name: str
    bells: int = 3


def test_a_field_with_a_default_may_be_missing():
    """It is younger than the document; whatever is there is checked all the same."""
    assert from_json(Sledge, {"name": "red"}) == (Sledge("red"), [])
    assert from_json(Sledge, {"name": "red", "bells": 5}) == (Sledge("red", 5), [])
    assert from_json(Sledge, {"name": "red", "bells": None}) == (None, ["bells must be int, not None"])
    assert from_json(Sledge, {}) == (None, ["name is missing"])


@pytest.mark.parametrize("document", [None, [], "cart", 3])
def test_a_document_that_is_no_object(document):
    assert from_json(Cart, document) == (None, [f"the document must be an object, not {document!r}"])

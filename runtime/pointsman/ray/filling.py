"""A column of texts of a Ray dataset, filled by actors that keep their model."""

from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from ray.data import Dataset

from pointsman.decoding import DecodingFields
from pointsman.errors import OptionsError
from pointsman.infill import Infiller
from pointsman.ray.bundles import local_bundle
from pointsman.ray.shards import check_one_fill

Columns = dict[str, NDArray[Any]]


def fill(
    dataset: Dataset,
    bundle: str,
    *,
    column: str = "text",
    filled: str = "filled",
    variant: str = "auto",
    threads: int | None = None,
    actors: int | tuple[int, int] = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    batch_size: int = 32,
    **fields: Unpack[DecodingFields],
) -> Dataset:
    """Fill the blanks of a column.

    Args:
        dataset: Of Ray Data; it is read when the result is.
        bundle: Its folder, which every machine must have, or a URL that fsspec knows.
        column: Where the texts are.
        filled: The column for the best fill; `<filled>_score` gets its score.
        variant: Which variant runs.
        threads: CPU threads of an actor; one for each core that the process may use where None.
        actors: How many; or the fewest and the most.
        cpus: That an actor takes of its machine.
        gpus: Likewise.
        batch_size: Texts at a time.
        fields: Decoding options.

    Returns:
        The dataset with two more columns. Reading it raises what `Infiller.infill_batch` raises, wrapped by Ray.

    Raises:
        OptionsError: A seed is given: samples follow from a text's number, and texts of a dataset have none. Or
            `num_return_sequences` is, other than 1: the best fill is the only one to get a column.
    """
    check_one_fill(fields)
    if fields.get("seed") is not None:
        raise OptionsError("texts of a dataset have no numbers, from which samples follow; leave out seed")
    result: Dataset = dataset.map_batches(
        _Filler,
        fn_constructor_args=(bundle, variant, threads, column, filled, fields),
        batch_size=batch_size,
        batch_format="numpy",
        concurrency=actors,
        num_cpus=cpus,
        num_gpus=gpus,
    )
    return result


class _Filler:
    """An actor's model."""

    def __init__(
        self,
        bundle: str,
        variant: str,
        threads: int | None,
        column: str,
        filled: str,
        fields: DecodingFields,
    ) -> None:
        self._infiller = Infiller.load(local_bundle(bundle), variant=variant, threads=threads)
        self._column, self._filled, self._fields = column, filled, fields

    def __call__(self, columns: Columns) -> Columns:
        texts = [str(text) for text in columns[self._column]]
        best = [fills[0] for fills in self._infiller.infill_batch(texts, **self._fields)]
        shown = {
            self._filled: np.array([fill.text for fill in best], np.object_),
            f"{self._filled}_score": np.array([fill.score for fill in best]),
        }
        taken = next((name for name in shown if name in columns), None)
        if taken is not None:
            raise OptionsError(f"the dataset has a column {taken} already; give another name with `filled`")
        return {**columns, **shown}

"""Beyond one machine, with Ray: the service as replicas, and columns of texts filled by actors. The extra `ray`.

bundles.py      a bundle by path or by URL, fetched once for each machine
deployment.py   `application`: the service on Ray Serve
filling.py      `fill`: a column of a Ray dataset
files.py        `fill_files`: files into shards, resumable
settings.py     what all shards of a folder have in common
shards.py       how a shard is filled
sources.py      what each shard was made from
rows.py         rows of Parquet and of JSON lines
cluster.py      Ray itself, joined or started
resumable.py    shards that actors make, and what is left of them after a stop
"""

import ray  # noqa: F401 - first of all, so that it is what is said to be missing where its extra is

from pointsman.ray.deployment import application
from pointsman.ray.files import fill_files
from pointsman.ray.filling import fill
from pointsman.ray.shards import Filling, Shard

__all__ = ["Filling", "Shard", "application", "fill", "fill_files"]

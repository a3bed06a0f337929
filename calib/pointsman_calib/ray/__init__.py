"""Beyond one machine, with Ray: documents of a comparison cut into shards that actors count. The extra `ray`."""

from pointsman_calib.ray.shards import Shards

__all__ = ["Shards"]

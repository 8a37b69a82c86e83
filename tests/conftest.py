"""What every test shares."""

import os

from hypothesis import settings

from tests.support.engine import collection_name, engine
from tests.support.ray_cluster import ray_session

__all__ = ["collection_name", "engine", "ray_session"]

# Two busy cores make single examples slow at random; the timeout of the whole test is the guard.
# Under CI, hypothesis loads its own profile: the same examples every time, and no deadline.
settings.register_profile("patient", deadline=None)
if "CI" not in os.environ:
    settings.load_profile("patient")

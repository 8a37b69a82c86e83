"""What every test shares."""

import os

from hypothesis import settings

from tests.support.engine import collection_name, engine
from tests.support.long_runs import LONG
from tests.support.ray_cluster import deployed, ray_session

__all__ = ["collection_name", "deployed", "engine", "ray_session"]

# Two busy cores make single examples slow at random; the timeout of the whole test is the guard.
# Under CI, hypothesis loads its own profile: the same examples every time, and no deadline.
# Where a test does not say how many examples it takes, fewer than hypothesis would: there are
# hundreds of them. `make soak` and NESTVEC_FAULT_LONG=1 take them all.
_EXAMPLES = 100 if LONG else 12
_BASE = settings.get_profile("ci" if "CI" in os.environ else "default")
settings.register_profile("patient", _BASE, deadline=None, max_examples=_EXAMPLES)
settings.load_profile("patient")

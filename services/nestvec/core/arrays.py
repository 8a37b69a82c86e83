"""Names for the arrays that travel between rooms. All matrices are row-major."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Halfs = NDArray[np.float16]
Ids = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Int8s = NDArray[np.int8]
Bools = NDArray[np.bool_]

"""The libraries of the extra `train`, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from nestvec.core.errors import ConfigError


def need(module: str) -> Any:
    """The module. Raises ConfigError, saying what to install, where it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"training needs {module} ({error}); pip install 'nestvec[train]'"
        ) from None

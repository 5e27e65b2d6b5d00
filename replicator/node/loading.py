"""Own the way from the configuration's `service = "module:Class"` to a service object."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from replicator.errors import ConfigError, UsageError
from replicator.service import Service


def load_service_class(spec: str, *, folder: Path | None = None) -> type[Service[Any]]:
    """Import a service class named "module:Class"; *folder* and the working directory are looked in as well.

    Raises ConfigError naming what is missing.
    """
    module_name, _, class_name = spec.partition(":")
    for place in (str(folder) if folder else "", os.getcwd()):
        if place and place not in sys.path:
            sys.path.append(place)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"[database] service = {spec!r}: module {error.name!r} is not found on the Python path"
        ) from error
    except UsageError as error:
        raise ConfigError(f"[database] service = {spec!r}: {error}") from error
    service_class = getattr(module, class_name, None)
    if service_class is None:
        raise ConfigError(f"[database] service = {spec!r}: module {module_name} has no class {class_name!r}")
    if not (isinstance(service_class, type) and issubclass(service_class, Service)):
        raise ConfigError(f"[database] service = {spec!r}: {class_name} is not a Service")
    return service_class

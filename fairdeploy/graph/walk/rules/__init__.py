"""Rules of the unit graph, one file per operator family. Importing the package registers all."""

import importlib
import pkgutil

from fairdeploy.graph.walk.rules.registry import rewrite_of, rule_of

__all__ = ["rewrite_of", "rule_of"]

for _family in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_family.name}")

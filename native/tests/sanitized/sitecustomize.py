"""In every Python that has this folder on its path, SANITIZED_MODULE is `services._native`."""

import importlib.machinery
import importlib.util
import os
import sys

loader = importlib.machinery.ExtensionFileLoader("services._native", os.environ["SANITIZED_MODULE"])
spec = importlib.util.spec_from_loader(loader.name, loader)
module = sys.modules[loader.name] = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
loader.exec_module(module)

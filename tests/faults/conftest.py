"""What the faults of training share: a toy run, and the harness that kills it."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def harness():
    """The module `kill_training`, which is a program as well."""
    path = Path(__file__).with_name("kill_training.py")
    spec = importlib.util.spec_from_file_location("kill_training", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

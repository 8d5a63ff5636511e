"""A tiny search, made once."""

import pathlib
import socket
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # for processes of their own, too

import conftest_of_search


@pytest.fixture(scope="session")
def given():
    """The arguments of a search of 6 trials among 8 candidates."""
    return conftest_of_search.arguments()


@pytest.fixture
def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]

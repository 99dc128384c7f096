"""A free TCP port for a run's rendezvous."""

import socket


def free_port() -> int:
    """A port of this machine that is currently unused."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]

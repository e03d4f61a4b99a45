"""A stand-in for the cloud: a real HTTP server that speaks a dialect of the API, and misbehaves on demand.

Remote sandboxes live in `accounts`; local ones are those of a standalone embedded server behind it (`machines`), which
also carries the executions out (`executions`).
"""

from .accounts import Accounts
from .dialects import NEWER, SEED, Dialect, Odd
from .faults import Fault
from .server import KEY, Cloud, faulty_cloud, standalone

__all__ = ["KEY", "NEWER", "SEED", "Accounts", "Cloud", "Dialect", "Fault", "Odd", "faulty_cloud", "standalone"]

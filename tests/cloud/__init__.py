"""A stand-in for the cloud: a real HTTP server that speaks a dialect of the API, keeps books, and misbehaves on demand.

Remote sandboxes live in `accounts`; local ones are those of a standalone embedded server behind it (`machines`,
`behind`), which also carries the executions out (`executions`), or in the light mode mere workspaces (`memory`).
Who held what is in `books`; capacity, rate and latency are `knobs`. In a process of its own it is told and asked by
`control`.
"""

from .accounts import Accounts
from .behind import KEY, standalone
from .books import Books
from .cloud import Cloud
from .control import Simulated, simulated_cloud
from .dialects import NEWER, SEED, Dialect, Odd
from .faults import Fault
from .server import faulty_cloud, light_cloud

__all__ = [
    "KEY",
    "NEWER",
    "SEED",
    "Accounts",
    "Books",
    "Cloud",
    "Dialect",
    "Fault",
    "Odd",
    "Simulated",
    "faulty_cloud",
    "light_cloud",
    "simulated_cloud",
    "standalone",
]

"""What a test holds. The handles speak to the API and to the servers, and know no pytest."""

from .base import Context, Private, Sandbox, Server
from .local import LocalSandbox
from .remote import RemoteSandbox
from .running import RunResult
from .sets import SandboxSet

__all__ = ["Context", "LocalSandbox", "Private", "RemoteSandbox", "RunResult", "Sandbox", "SandboxSet", "Server"]

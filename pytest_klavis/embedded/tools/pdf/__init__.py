"""The pdf-tools server: the tools of Klavis and of the benchmarks, over one worker that reads and writes PDFs."""

from pytest_klavis.embedded.tools.pdf.klavis import KLAVIS
from pytest_klavis.embedded.tools.pdf.upstream import UPSTREAM

__all__ = ["KLAVIS", "UPSTREAM"]

"""The pdf-tools server: Klavis's tools and those that the benchmarks pin, over one worker that reads and writes PDFs."""

from pytest_klavis.embedded.tools.pdf.klavis import KLAVIS
from pytest_klavis.embedded.tools.pdf.upstream import UPSTREAM

__all__ = ["KLAVIS", "UPSTREAM"]

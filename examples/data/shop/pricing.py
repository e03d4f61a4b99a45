"""Prices of a small shop, in cents."""

VAT_PERCENT = 19


def gross(net: int) -> int:
    return net + net * VAT_PERCENT // 100

"""How good an adapter became, what it forgot, and how that is told."""

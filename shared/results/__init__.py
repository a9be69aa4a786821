"""The ledger: every result with its provenance, and its raw traces in a file beside it."""

from shared.results.ledger import load_raw, load_results, record, set_aside

__all__ = ["load_raw", "load_results", "record", "set_aside"]

"""Engines built ahead of time from the small model's prefill."""

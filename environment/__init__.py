"""Everything that sets a machine up. No notebook imports it; `make` runs its modules."""

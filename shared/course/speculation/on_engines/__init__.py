"""What lab 3.3.4 asks of a running engine with drafts, apart from speed."""

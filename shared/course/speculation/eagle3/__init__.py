"""An EAGLE-3 head for the small model: the text it learns from, how it is trained, its files for three engines."""

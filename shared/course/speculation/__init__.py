"""Lab 3.3.4: speculative decoding, with an EAGLE-3 head that is trained here."""

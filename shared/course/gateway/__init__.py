"""Lab 3.3.5: a production API in front of the engines, and a naive one to compare it with."""

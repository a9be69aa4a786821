"""Lab 3.3.6: a chat page for Ollama, the checks that judge it in a browser, and a page to compare it with."""

"""A chat page for Ollama, and for any engine behind an OpenAI-compatible gateway.

The page (static/) only shows. This package keeps the history, and it owns every running answer: a page that is
reloaded attaches to its answer again, and a page that presses stop, or leaves, makes the engine stop.

    browser ── HTTP, NDJSON ──> app ──> answers ──> engines ──> Ollama, or the gateway
                                 │         └──────> history (SQLite)
                                 └──> manager ──> Ollama's models

Start reading at `app.py`. README.md names every file.
"""

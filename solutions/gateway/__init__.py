"""The production API of lab 3.3.5: one OpenAI-compatible address in front of many engines.

A request passes through the files in this order:

    server.py       uvicorn, with limits on headers and slow senders; drains on SIGTERM
    middleware.py   request id, body limit, security headers, one JSON log line
    app.py          the routes of the OpenAI surface; who is asking (keys.py)
    admission.py    rate and concurrency of a key, then the queue for an engine's seat
    pool.py         which engine: the least loaded one that is healthy and serves the model
    relay.py        sends the request on, passes the bytes back as they come, and frees the seat

settings.py holds every number, metrics.py every counter, errors.py the form of an error.
"""

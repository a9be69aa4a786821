"""The production API of lab 3.3.5: one OpenAI-compatible address in front of many engines.

A request passes through the files in this order:

    server.py    uvicorn and its workers; limits on headers, bodies and slow senders; request id, one JSON line of log
    app.py       the routes of the OpenAI surface, and what operators need
    keys.py      which key asks, and its rate and concurrency
    pool.py      a seat at the least loaded healthy engine that serves the model, after waiting for it
    relay.py     sends the request on, passes the bytes back as they come, and frees the seat
    metrics.py   what is counted, and what a stream carries

settings.py holds every number, errors.py the form of an error, __main__.py the commands.
"""

"""What a stand-in container runs where no engine is needed: it says that it is well, and gives one token.

python standin_engine.py PORT [seconds until it is well] [seconds until it dies, with what exit code] [last words]
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

began = time.monotonic()
well_after = float(sys.argv[2]) if len(sys.argv) > 2 else 0
TOKEN = {"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "length"}]}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply(200 if time.monotonic() - began > well_after else 503, {"version": "stand-in"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(200, TOKEN)

    def reply(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def die(seconds: float, code: int, words: str) -> None:
    time.sleep(seconds)
    print(words, flush=True)
    os._exit(code)


if len(sys.argv) > 3:
    threading.Thread(
        target=die, args=(float(sys.argv[3]), int(sys.argv[4]), " ".join(sys.argv[5:])), daemon=True
    ).start()
print("a stand-in, no engine, for", os.environ.get("HF_HOME"), flush=True)
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()

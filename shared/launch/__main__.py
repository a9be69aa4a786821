"""`make down`: end every engine that a notebook left running.

python -m shared.launch down
"""

import sys

from shared.launch import down

if sys.argv[1:] != ["down"]:
    sys.exit("usage: python -m shared.launch down")
if not down():
    print("no engine was running")

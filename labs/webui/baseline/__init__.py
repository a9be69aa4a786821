"""The plain chat page that this lab starts from: `python -m webui.baseline`. It works, and lacks what people expect.

There is no stop button, an answer is plain text, and a reload loses everything.
"""

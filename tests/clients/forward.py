"""Sends numbered events with fluent-logger (Message mode, no acknowledgement): forward.py PORT COUNT."""

import sys

from fluent import sender

port, count = int(sys.argv[1]), int(sys.argv[2])
logger = sender.FluentSender("py", host="127.0.0.1", port=port, nanosecond_precision=True)
for n in range(count):
    if not logger.emit_with_time("audit", 1700000000.25, {"n": n, "actor": "carol", "bytes": b"\xff\x00"}):
        sys.exit(str(logger.last_error))
logger.close()

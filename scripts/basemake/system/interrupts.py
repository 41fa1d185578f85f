"""What Ctrl-C does to this process. Imports nothing that takes time."""

import signal
import threading
from typing import Any


def end_at_interrupt() -> None:
    """Let Ctrl-C end this process at once, without a traceback, if it has no handler of its own."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        on_interrupt(signal.SIG_DFL)


def on_interrupt(handler: Any) -> None:
    """Let `handler` handle Ctrl-C; in another than the main thread, which cannot, do nothing."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)

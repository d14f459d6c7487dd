"""Interruption and memory, without any."""
import threading


class InterruptProcessingException(BaseException):
    pass


class OOM_EXCEPTION(Exception):
    pass


_lock = threading.Lock()
_interrupted = False
unloaded = 0                # how often everything was unloaded
DISABLE_SMART_MEMORY = False


def interrupt_current_processing(value=True):
    global _interrupted
    with _lock:
        _interrupted = value


def throw_exception_if_processing_interrupted():
    global _interrupted
    with _lock:
        if not _interrupted:
            return
        _interrupted = False
    raise InterruptProcessingException()


def unload_all_models():
    global unloaded
    unloaded += 1


def soft_empty_cache():
    pass

"""The connection to comfyd. A frame is two little-endian `u32`, the lengths of a JSON text and of a block of bytes, and then both."""
import json
import os
import socket
import struct
import sys
import threading

HEAD = struct.Struct("<II")
TEXT_MAX = 64 << 20
# Up to here a frame is joined and leaves in one call, which an exception that is thrown into the calling thread cannot tear apart.
JOIN_MAX = 8 << 20
# What is read at once: a message without tensors, in one call.
AHEAD = 64 << 10
WHOLE = getattr(socket, "MSG_WAITALL", 0)

POOL_MAX = 32 << 20

_lock = threading.Lock()
_pool = []
_socket = None
_ahead, _ahead_at, _ahead_end = bytearray(AHEAD), 0, 0    # what was read and belongs to nobody yet


def connect():
    """Takes standard input as the connection and puts the null device in its place, so that nothing else reads it."""
    global _socket
    _socket = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def _forked():
    """A child that a node forked must not hold the connection open, nor write into it."""
    global _socket, _lock
    _socket.close()
    _socket, _lock = None, threading.Lock()


def _plain(value):
    """Numbers of numpy and torch, which some packs put into what clients are shown, as the numbers that they are."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", 0) == 0:
        return item()
    raise TypeError(f"an object of type {type(value).__name__} cannot be written as JSON")


def _finite(value):
    """The same without what JSON lacks: comfyd's clients are browsers, which could not read it."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, str)) else _finite(_plain(value))


def text(message):
    """A message as JSON in UTF-8. Raises `TypeError` or `ValueError` where it cannot be written."""
    try:
        written = json.dumps(message, default=_plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError:
        written = json.dumps(_finite(message), default=_plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    encoded = written.encode("utf-8", "replace")           # halves of surrogate pairs become question marks
    if len(encoded) > TEXT_MAX:
        raise ValueError(f"a message of {len(encoded)} bytes is too long: {TEXT_MAX} are allowed")
    return encoded


def send_text(encoded, blobs=()):
    """Sends what `text` wrote, with blocks of bytes behind it."""
    size = sum(len(blob) for blob in blobs)
    head = HEAD.pack(len(encoded), size)
    if size <= JOIN_MAX:
        parts = [b"".join((head, encoded, *blobs))]
    else:
        parts = [head + encoded, *blobs]
    with _lock:
        if _socket is None:
            return                                         # a forked child
        try:
            for part in parts:
                _socket.sendall(part)
        except OSError:
            os._exit(0)                                    # comfyd is gone


def send(message, blobs=()):
    """Sends a message."""
    send_text(text(message), blobs)


def event(kind, blobs=(), /, **fields):
    """Tells comfyd something unasked. What cannot be written is left out with a line in the log: nobody waits for it."""
    try:
        encoded = text({"ev": kind, **fields})
    except (TypeError, ValueError, RecursionError) as error:
        print(f"comfyd: a report of kind {kind} was not sent: {error}", file=sys.stderr)
        return
    send_text(encoded, blobs)


def _memory(size):
    """Room for so many bytes. Memory that was used before is quicker than new one, and the blobs of pictures are of few sizes: the last
    two are used again once no tensor lies in them any more, which Python tells by letting them grow."""
    for memory in _pool:
        if len(memory) == size:
            try:
                memory.append(0)
            except BufferError:
                continue
            memory.pop()
            return memory
    memory = bytearray(size + 1)                           # so that growing by one needs no new memory
    memory.pop()
    if 1 << 16 < size <= POOL_MAX:
        _pool.append(memory)
        del _pool[:-2]
    return memory


def _small(size):
    """The next bytes, read with what comes behind them."""
    global _ahead_at, _ahead_end
    if size > AHEAD:
        return bytes(_exactly(size))
    if _ahead_end - _ahead_at < size:
        left = _ahead_end - _ahead_at
        _ahead[:left] = _ahead[_ahead_at:_ahead_end]
        _ahead_at, _ahead_end = 0, left
        with memoryview(_ahead) as view:
            while _ahead_end < size:
                count = _socket.recv_into(view[_ahead_end:])
                if not count:
                    os._exit(0)                            # comfyd is gone
                _ahead_end += count
    _ahead_at += size
    return bytes(_ahead[_ahead_at - size:_ahead_at])


def _exactly(size):
    """The next bytes, in memory that stays."""
    global _ahead_at
    view = memoryview(_memory(size))
    got = min(size, _ahead_end - _ahead_at)
    view[:got] = _ahead[_ahead_at:_ahead_at + got]
    _ahead_at += got
    while got < size:
        count = _socket.recv_into(view[got:], 0, WHOLE)
        if not count:
            os._exit(0)                                    # comfyd is gone
        got += count
    return view


def receive():
    """The next message, or `None` for one that is no JSON object, and its bytes. Ends the process where there is no connection."""
    try:
        length, size = HEAD.unpack(_small(HEAD.size))
        if length > TEXT_MAX:
            print(f"comfyd: a frame announces {length} bytes of JSON: the connection cannot be used any more", file=sys.stderr)
            os._exit(1)
        encoded, blob = _small(length), _exactly(size) if size else b""
    except OSError:
        os._exit(0)
    except MemoryError as error:
        print(f"comfyd: there is no memory for a frame: {error}", file=sys.stderr)
        os._exit(1)
    try:
        message = json.loads(encoded)
    except (ValueError, RecursionError):
        message = None
    return (message if isinstance(message, dict) else None), blob

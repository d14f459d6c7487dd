"""Plays comfyd's part for tests: starts a worker and talks to it."""
import json
import os
import queue
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

HEAD = struct.Struct("<II")
HERE = os.path.dirname(os.path.abspath(__file__))
WORKER = os.path.join(os.path.dirname(HERE), "worker", "worker.py")
STUB = os.path.join(HERE, "comfyui")


class Worker:
    """A worker's process."""

    def __init__(self, comfyui=STUB, python=sys.executable, arguments=(), environment=None, start_s=240):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.folder = tempfile.mkdtemp(prefix="comfyd-worker-")
        self.http, self.log = os.path.join(self.folder, "http"), os.path.join(self.folder, "log")
        own = {"COMFYD_HTTP": self.http, "COMFYD_ADDRESS": "127.0.0.1:18188", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([python, WORKER, comfyui, *arguments], env={**os.environ, **own, **(environment or {})},
                                            stdin=theirs, stdout=log, stderr=subprocess.STDOUT)
        theirs.close()
        self.history, self.asked = {"json": {}}, []             # what it is told of the history, and what it asked
        self.numbers, self.waiting, self.events, self.blobs = 0, {}, [], {}
        self.lock, self.heard, self.gone, self.ready = threading.Lock(), threading.Condition(), threading.Event(), None
        threading.Thread(target=self._read, daemon=True).start()
        if start_s:
            try:
                self.wait_ready(start_s)
            except RuntimeError:
                self.end()
                raise

    def wait_ready(self, seconds):
        end = time.monotonic() + seconds
        while self.ready is None:
            if self.gone.is_set() or time.monotonic() > end:
                raise RuntimeError("the worker does not start:\n" + self.said())
            time.sleep(0.005)

    def said(self):
        with open(self.log) as log:
            return log.read()

    def _exactly(self, size):
        view, got = memoryview(bytearray(size)), 0
        while got < size:
            count = self.socket.recv_into(view[got:])
            if not count:
                raise EOFError
            got += count
        return view

    def _read(self):
        try:
            while True:
                length, size = HEAD.unpack(self._exactly(8))
                message = json.loads(bytes(self._exactly(length)))
                message["blob"] = self._exactly(size) if size else b""
                if "re" in message:
                    self.waiting.pop(message["re"]).put(message)
                elif message["ev"] == "history":
                    self.tell("told", ask=message["ask"], **self.history)
                    self.asked.append(message)
                elif message["ev"] == "ready":
                    self.ready = message
                else:
                    with self.heard:
                        self.events.append(message)
                        self.heard.notify_all()
        except (EOFError, OSError):
            self.gone.set()
            for waiting in list(self.waiting.values()):
                waiting.put({"gone": True})

    def raw(self, encoded, blob=b""):
        with self.lock:
            self.socket.sendall(HEAD.pack(len(encoded), len(blob)) + encoded)
            if len(blob):
                self.socket.sendall(blob)

    def tell(self, op, blob=b"", **fields):
        self.raw(json.dumps({"op": op, **fields}).encode(), blob)

    def start(self, op, blob=b"", **fields):
        self.numbers += 1
        waiting = self.waiting[self.numbers] = queue.Queue()
        self.raw(json.dumps({"op": op, "id": self.numbers, **fields}).encode(), blob)
        return waiting

    def ask(self, op, blob=b"", seconds=60, **fields):
        return self.start(op, blob, **fields).get(timeout=seconds)

    def begin(self, prompt=None, prompt_id="p1", extra=None, outputs=(), number=1):
        return self.ask("begin", prompt_id=prompt_id, number=number, prompt=prompt or {}, extra=extra or {"client_id": "c"},
                        outputs=list(outputs))

    def run(self, name, node="1", inputs=None, blob=b"", seconds=60, **fields):
        """`inputs`: name -> constant, `link(…)`, or a value form."""
        return self.ask("run", blob, seconds, node=node, **{"class": name}, inputs=list((inputs or {}).items()), **fields)

    def value(self, name, inputs=None, **fields):
        """The one value of the first output."""
        answer = self.run(name, inputs=inputs, **fields)
        if "outputs" not in answer:
            raise AssertionError(answer)
        return answer["outputs"][0][0]

    def event(self, kind, seconds=10, **fields):
        """Waits for an event and takes it."""
        end = time.monotonic() + seconds
        with self.heard:
            while True:
                for event in self.events:
                    if event["ev"] == kind and all(event.get(key) == value for key, value in fields.items()):
                        self.events.remove(event)
                        return event
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"no {kind} came, but {self.events}")
                self.heard.wait(left)

    def request(self, method, path, body=b"", headers=""):
        """One request to the worker's own app: status and body."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(self.http)
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
                               .encode() + body)
            answer = b""
            while data := connection.recv(65536):
                answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def end(self, seconds=20):
        """Ends it, and tells its status."""
        try:
            self.tell("quit")
        except OSError:
            pass
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.socket.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.process.returncode


def link(node, slot=0, *values):
    """A link with the values that came along it; without any, one that was not evaluated."""
    return {"link": [node, slot], **({"values": list(values)} if values else {})}

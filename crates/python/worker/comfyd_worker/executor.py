"""ComfyUI's prompt thread. It asks its queue for work once and stays here, in a loop of its own that runs the calls of nodes.

A call of a coroutine leaves the loop free for the next one. What keeps the loop busy is code that returns when it likes.
"""
import asyncio
import ctypes
import functools
import os
import threading
import time
import types

from . import frames, guard, prompt, values

# How long the loop has to show that it is free, before an exception is thrown into the thread.
ANSWER_S = 0.05
# So often within a second the loop may fail before it counts as broken, as where a node closed what is not its own.
FAILURES_MAX = 50
# Garbage is collected when no prompt has run for a moment, and between two prompts where that never happens.
IDLE_S, COLLECT_S = 1.0, 60.0


class Executor:
    """The thread and its loop."""

    def __init__(self):
        self.started = threading.Event()
        self._loop = None
        self._thread = None
        self._collecting = None

    def serve(self):
        """Runs for good, in the thread that calls it."""
        import torch
        self._loop, self._thread = asyncio.new_event_loop(), threading.get_ident()
        asyncio.set_event_loop(self._loop)
        self._loop.set_task_factory(guard.tasks)
        with torch.inference_mode():
            self.started.set()
            failures, since = 0, time.monotonic()
            while True:
                try:
                    self._loop.run_forever()
                except BaseException as error:
                    # An exception that was thrown in after its call had ended. Calls answer by themselves.
                    print(f"comfyd: the prompt's thread goes on after {error!r}", flush=True)
                if time.monotonic() - since > 1.0:
                    failures, since = 0, time.monotonic()
                failures += 1
                if failures > FAILURES_MAX:
                    print("comfyd: the prompt's thread cannot go on", flush=True)
                    os._exit(1)

    def post(self, function, *arguments):
        """Has the thread call something, after what it was given before."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def call(self, operation, message):
        """Has the thread run a coroutine and answer the message with what it returns."""
        self.post(self._start, operation, message)

    def _start(self, operation, message):
        """Most calls end without waiting for anything: they need no task, which costs some turns of the loop."""
        coroutine = operation(message)
        try:
            waits_for = coroutine.send(None)
        except StopIteration as end:
            reply = end.value or {}
        except asyncio.CancelledError:
            reply = {"interrupted": True}
        except BaseException as error:
            reply = prompt.failure(error)
        else:
            task = self._loop.create_task(_go_on(coroutine, waits_for))
            task.add_done_callback(functools.partial(answer, message))
            return
        if "id" in message:
            respond(message["id"], reply)

    def end(self):
        """The prompt is over: calls that are still under way are given up."""
        self.post(self._end)

    def _end(self):
        self._cancel_all()
        prompt.end()
        if time.monotonic() - prompt.State.collected > COLLECT_S:
            prompt.collect()
        elif self._collecting is None:
            self._collecting = self._loop.call_later(IDLE_S, self._collect)

    def _collect(self):
        self._collecting = None
        if not prompt.running():                           # else its end asks again
            prompt.collect()

    def _cancel_all(self, done=None):
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        if done is not None:
            done.set()

    def throw(self):
        """Gives up all calls: those that wait are cancelled, and one that keeps the thread busy is thrown an exception. Blocks a moment."""
        import comfy.model_management as memory
        free = threading.Event()
        self.post(self._cancel_all, free)
        if not free.wait(ANSWER_S):
            kind = ctypes.py_object(memory.InterruptProcessingException)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), kind)


@types.coroutine
def _resumed(coroutine, waits_for):
    """A coroutine that waits for something."""
    while True:
        try:
            sent = yield waits_for
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            step = functools.partial(coroutine.throw, error)
        else:
            step = functools.partial(coroutine.send, sent)
        try:
            waits_for = step()
        except StopIteration as end:
            return end.value


async def _go_on(coroutine, waits_for):
    return await _resumed(coroutine, waits_for)


def answer(message, task):
    """Answers a message with what a task or future came to."""
    if "id" not in message:
        if not task.cancelled():
            task.exception()
        return
    if task.cancelled():
        reply = {"interrupted": True}
    else:
        error = task.exception()
        reply = (task.result() or {}) if error is None else prompt.failure(error)
    respond(message["id"], reply)


def respond(number, reply, blobs=()):
    """Sends an answer; one that cannot be written becomes an error."""
    try:
        encoded = frames.text({"re": number, **reply})
    except (TypeError, ValueError, RecursionError) as error:
        for part in ("outputs", "calls"):
            values.unsaid(reply.get(part))
        encoded, blobs = frames.text({"re": number, **prompt.failure(error)}), ()
    frames.send_text(encoded, blobs)


EXECUTOR = Executor()

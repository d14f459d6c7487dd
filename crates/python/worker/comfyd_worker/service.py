"""What comfyd asks for, and who answers it: the reader's thread at once, the main loop, or the executor's loop."""
import asyncio
import functools
import os
import sys
import threading

from . import executor, frames, manifest, prompt, values

STATE = prompt.State


async def _describe(message):
    return await manifest.describe(STATE.server, message.get("classes"))


async def _on_prompt(message):
    """A request as the packs' handlers change it."""
    return {"json": STATE.server.trigger_on_prompt(message["json"])}


async def _stats(message):
    """The same numbers as ComfyUI's own `/system_stats`."""
    told = manifest.versions()
    stats = await manifest.ask(STATE.server, "/system_stats")
    system = stats.get("system", {})
    return {"objects": len(values.OBJECTS), "python": told["python"], "pytorch": system.get("pytorch_version", told.get("pytorch")),
            "comfyui": told["comfyui"], "ram_total": system.get("ram_total"), "ram_free": system.get("ram_free"),
            "devices": stats.get("devices", []), "system": system}


async def _free(message):
    prompt.free(message)
    return {}


async def _show(message):
    return {"text": values.shown(message["object"])}


EXECUTOR = {"begin": prompt.begin, "run": prompt.run, "lazy": prompt.lazy, "changed": prompt.changed, "free": _free, "show": _show}
MAIN = {"validate": prompt.validate, "inspect": prompt.inspect_links, "describe": _describe, "on_prompt": _on_prompt, "stats": _stats}


def _fetch(message):
    try:
        fields, blobs = values.pack(message["object"])
    except Exception as error:
        fields, blobs = prompt.failure(error), ()
    executor.respond(message["id"], fields, blobs)


def _handle(message, blob):
    operation = message.get("op")
    if "inputs" in message:
        prompt.arrive(message, blob)
    if "h" in message:
        message["object"] = values.OBJECTS.get(message["h"])
    if message.get("release"):
        values.OBJECTS.release(message["release"])         # after what the same message refers to
    if operation in EXECUTOR:
        executor.EXECUTOR.call(EXECUTOR[operation], message)
    elif operation in MAIN:
        future = asyncio.run_coroutine_threadsafe(MAIN[operation](message), STATE.server.loop)
        future.add_done_callback(functools.partial(executor.answer, message))
    elif operation == "fetch":
        if values.is_heavy(message["object"]):
            threading.Thread(target=_fetch, args=(message,), daemon=True).start()
        else:
            _fetch(message)
    elif operation == "ping":
        executor.respond(message["id"], {})
    elif operation == "interrupt":
        sys.modules["nodes"].interrupt_processing(True)
    elif operation == "raise":
        executor.EXECUTOR.throw()
    elif operation == "end":
        values.PUT.clear()                                 # here, in the order of messages: the next prompt's may come before the end is done
        executor.EXECUTOR.end()
    elif operation == "quit":
        os._exit(0)
    elif operation is not None or "release" not in message:
        raise ValueError(f"there is no operation {operation!r}")


def read():
    """Reads and hands on what comfyd sends, for good. A message that makes no sense is answered if it can be, and never ends this."""
    while True:
        message, blob = frames.receive()
        if message is None:
            print("comfyd: a frame that is no JSON object was left out", file=sys.stderr)
            continue
        try:
            _handle(message, blob)
        except BaseException as error:
            if "id" in message:
                executor.respond(message["id"], prompt.failure(error))
            else:
                print(f"comfyd: a message was left out: {error!r}", file=sys.stderr)
        del message, blob                                  # not held until the next one comes

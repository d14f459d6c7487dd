"""A pack that uses the queue, sends events and changes requests.

    StubEvent    name STRING, text STRING, all BOOLEAN -> STRING   sends {"text": text} to the client or to all, and the binary message 77
    StubEnqueue  times INT -> INT   puts the running prompt into the queue again, `times` times
    StubRemove   id STRING -> BOOLEAN   takes a prompt that StubEnqueue put in out of the queue; "" takes all
    StubQueue    -> STRING   what the queue looks like from inside, as JSON
    StubHistory  id STRING -> STRING   what it sees of the history, as JSON; removes that prompt's entry
    StubFlag     value * -> *   asks for memory to be freed
The handler of prompts adds {"stub": true} to `extra_data` where that has "stub_handler", and makes "handled" of the text "handle me".
"""
import json
import uuid

from server import PromptServer


def handler(data):
    if "stub_handler" in data.get("extra_data", {}):
        data["extra_data"]["stub"] = True
    for node in data["prompt"].values():
        if node["inputs"].get("text") == "handle me":
            node["inputs"]["text"] = "handled"
    return data


PromptServer.instance.add_on_prompt_handler(handler)


class Base:
    FUNCTION, CATEGORY, RETURN_TYPES, OUTPUT_NODE = "run", "stub/queue", ("STRING",), True


class StubEvent(Base):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {}), "text": ("STRING", {}), "all": ("BOOLEAN", {"default": False})}}

    def run(self, name, text, all):
        server = PromptServer.instance
        sid = None if all else server.client_id
        server.send_sync(name, {"text": text}, sid)
        server.send_sync(77, text.encode(), sid)
        return (text,)


class StubEnqueue(Base):
    RETURN_TYPES = ("INT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"times": ("INT", {"default": 1})}}

    def run(self, times):
        server = PromptServer.instance
        running = next(iter(server.prompt_queue.currently_running.values()))
        for _ in range(times):
            number = -server.number
            server.number += 1
            server.prompt_queue.put((number, str(uuid.uuid4()), *running[2:]))
        return (times,)


class StubRemove(Base):
    RETURN_TYPES = ("BOOLEAN",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"id": ("STRING", {})}}

    def run(self, id):
        queue = PromptServer.instance.prompt_queue
        if not id:
            queue.wipe_queue()
            return (True,)
        return (queue.delete_queue_item(lambda item: item[1] == id),)


class StubQueue(Base):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        server = PromptServer.instance
        queue = server.prompt_queue
        running, waiting = queue.get_current_queue()
        told = {"running": [item[1] for item in running], "secrets": [len(item) > 5 and sorted(item[5]) for item in running],
                "waiting": [item[1] for item in waiting], "remaining": queue.get_tasks_remaining(), "client": server.client_id,
                "node": server.last_node_id, "prompt": server.last_prompt_id, "history": queue.get_history(), "address": server.address,
                "port": server.port}
        return (json.dumps(told),)


class StubHistory(Base):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"id": ("STRING", {})}}

    def run(self, id):
        queue = PromptServer.instance.prompt_queue
        one = queue.get_history(prompt_id=id)
        told = {"one": one, "newest": list(queue.get_history(max_items=2)), "attribute": list(queue.history),
                "tuple": all(isinstance(entry["prompt"], tuple) for entry in one.values())}
        queue.delete_history_item(id)
        return (json.dumps(told),)


class StubFlag(Base):
    RETURN_TYPES = ("*",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*", {})}}

    def run(self, value):
        PromptServer.instance.prompt_queue.set_flag("free_memory", True)
        return (value,)


NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in (StubEvent, StubEnqueue, StubRemove, StubQueue, StubHistory, StubFlag)}

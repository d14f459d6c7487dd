"""The server: routes, handlers and messages."""
import asyncio
import logging
import struct
import sys
import traceback

from aiohttp import web

import execution
import folder_paths
import nodes
from comfyui_version import __version__
from protocol import BinaryEventTypes


class NodeReplaceManager:
    """What stands in for classes that there are not any more."""

    def as_dict(self):
        return {"StubOld": [{"new_node_id": "StubSum", "old_node_id": "StubOld", "old_widget_ids": None,
                             "input_mapping": [{"new_id": "a", "old_id": "x"}], "output_mapping": None}]}


class PromptServer:
    instance = None

    def __init__(self, loop):
        PromptServer.instance = self
        self.prompt_queue, self.loop, self.messages, self.number = execution.PromptQueue(self), loop, asyncio.Queue(), 0
        self.app, self.routes = web.Application(), web.RouteTableDef()
        self.node_replace_manager = NodeReplaceManager()
        self.sockets, self.sockets_metadata, self.on_prompt_handlers = {}, {}, []
        self.client_id = self.last_node_id = self.last_prompt_id = None
        self._own_routes()

    def _own_routes(self):
        @self.routes.get("/object_info")
        async def all_classes(request):
            with folder_paths.cache_helper:
                return web.json_response({name: info(name, cls) for name, cls in nodes.NODE_CLASS_MAPPINGS.items()})

        @self.routes.get("/object_info/{node_class}")
        async def one_class(request):
            name = request.match_info["node_class"]
            cls = nodes.NODE_CLASS_MAPPINGS.get(name)
            return web.json_response({} if cls is None else {name: info(name, cls)})

        @self.routes.get("/system_stats")
        async def stats(request):
            device = {"name": "stub", "type": "cpu", "index": None, "vram_total": 1000, "vram_free": 900, "torch_vram_total": 0,
                      "torch_vram_free": 0}
            system = {"os": sys.platform, "ram_total": 1000, "ram_free": 900, "comfyui_version": __version__, "python_version": sys.version,
                      "pytorch_version": "stub", "argv": sys.argv}
            return web.json_response({"system": system, "devices": [device]})

    def add_routes(self):
        self.app.add_routes(self.routes)
        self.app.add_routes([web.static("/extensions/" + name, folder) for name, folder in nodes.EXTENSION_WEB_DIRS.items()])

    async def start_multi_address(self, addresses, call_on_start=None, verbose=True):
        raise RuntimeError("comfyd replaces this: no port is opened")

    async def publish_loop(self):
        while True:
            await self.messages.get()

    def send_sync(self, event, data, sid=None):
        raise RuntimeError("comfyd replaces this")

    def send_progress_text(self, text, node_id, sid=None):
        node = str(node_id).encode()
        self.send_sync(BinaryEventTypes.TEXT, struct.pack(">I", len(node)) + node + text.encode(), sid)

    def add_on_prompt_handler(self, handler):
        self.on_prompt_handlers.append(handler)

    def trigger_on_prompt(self, json_data):
        for handler in self.on_prompt_handlers:
            try:
                json_data = handler(json_data)
            except Exception:
                logging.warning(traceback.format_exc())
        return json_data


def info(name, cls):
    """What clients are told of a class."""
    declared = cls.INPUT_TYPES()
    return {
        "input": declared,
        "input_order": {category: list(group) for category, group in declared.items()},
        "is_input_list": getattr(cls, "INPUT_IS_LIST", False),
        "output": cls.RETURN_TYPES,
        "output_is_list": getattr(cls, "OUTPUT_IS_LIST", [False] * len(cls.RETURN_TYPES)),
        "output_name": getattr(cls, "RETURN_NAMES", cls.RETURN_TYPES),
        "name": name,
        "display_name": nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name, name),
        "description": getattr(cls, "DESCRIPTION", ""),
        "python_module": getattr(cls, "RELATIVE_PYTHON_MODULE", "nodes"),
        "category": getattr(cls, "CATEGORY", "sd"),
        "output_node": getattr(cls, "OUTPUT_NODE", False) is True,
        "has_intermediate_output": False,
        "search_aliases": [],
    }

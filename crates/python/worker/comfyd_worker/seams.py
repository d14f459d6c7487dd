"""Where comfyd hooks into ComfyUI: a few names that have been there for long, replaced right after their modules were imported."""
import asyncio
import importlib.abc
import importlib.util
import inspect
import os
import shutil
import sys
import threading
import time

from . import executor, facade, frames, guard, manifest, modules, prompt, reports, service, users

BOOT = time.perf_counter()
# The header in which comfyd tells the client's address.
REMOTE = "X-Comfyd-Remote"
FUNCTIONS = ("execute", "get_output_data", "_async_map_node_over_list")


def _execution(module):
    missing = [name for name in (*FUNCTIONS, "get_input_data", "get_output_from_returns", "resolve_map_node_over_list_results",
                                 "PromptQueue", "ExecutionResult") if not hasattr(module, name)]
    if missing:
        raise RuntimeError(f"this version of ComfyUI has no execution.{missing[0]}: comfyd can run 0.3.52 and later")
    names = {name: list(inspect.signature(getattr(module, name)).parameters) for name in FUNCTIONS}
    names["task_done"] = list(inspect.signature(module.PromptQueue.task_done).parameters)
    prompt.State.parameters = names
    prompt.State.advice = [text for text in module.execute.__code__.co_consts if isinstance(text, str) and "TIPS" in text]
    module.execute = prompt.execute
    facade.install(module.PromptQueue, executor.EXECUTOR.serve)
    facade.watch(_flags, lambda: prompt.State.owner)


def _flags():
    if executor.EXECUTOR.started.is_set():
        executor.EXECUTOR.post(prompt.obey_flags)


def _server(module):
    server = module.PromptServer
    init = server.__init__

    def __init__(self, loop, *arguments, **named):
        prompt.State.server = self
        init(self, loop, *arguments, **named)

    server.__init__, server.send_sync, server.start_multi_address = __init__, reports.send_sync, _start


async def _start(self, addresses=(), call_on_start=None, verbose=True):
    """Stands in for `PromptServer.start_multi_address`: the app is served on a Unix socket, and comfyd is told that all is up."""
    loop = asyncio.get_running_loop()
    if loop.get_task_factory() is None:
        loop.set_task_factory(guard.tasks)
    await _serve(self.app, os.environ["COMFYD_HTTP"])
    host, _, port = os.environ.get("COMFYD_ADDRESS", "127.0.0.1:8188").rpartition(":")
    self.address, self.port = host, int(port) if port.isdigit() else 8188
    modules.deaf()
    while not executor.EXECUTOR.started.is_set():
        await asyncio.sleep(0.01)
    threading.Thread(target=service.read, name="comfyd", daemon=True).start()
    frames.event("ready", seconds=round(time.perf_counter() - BOOT, 3), versions=manifest.versions())


async def _serve(app, path):
    from aiohttp import web

    @web.middleware
    async def from_client(request, handler):
        """The socket cannot tell who asks: comfyd does."""
        remote = request.headers.get(REMOTE)
        return await handler(request if remote is None else request.clone(remote=remote))

    app.middlewares.insert(0, from_client)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, path).start()


def _database(module):
    """Another ComfyUI may have the user's database, and this one is not to end for that: it has one in memory instead."""
    init = getattr(module, "init_db", None)
    if init is None:
        return

    def init_db():
        from comfy.cli_args import args
        try:
            init()
        except Exception as error:
            if not hasattr(module, "_init_memory_db") or ":memory:" in str(args.database_url):
                raise
            print(f"comfyd: this worker keeps its database in memory: {error}", file=sys.stderr)
            args.database_url = "sqlite:///:memory:"
            init()

    module.init_db = init_db


PATCHES = {"execution": _execution, "server": _server, "nodes": modules.watch, "folder_paths": users.install, "app.database.db": _database}


class Finder(importlib.abc.MetaPathFinder):
    """Lets the modules be found as ever, and hooks in after they were run."""

    def __init__(self):
        self.left = dict(PATCHES)

    def find_spec(self, name, path=None, target=None):
        patch = self.left.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


def _keep_temp():
    """ComfyUI empties its temp folder when it starts and ends, but here the folder is comfyd's."""
    rmtree = shutil.rmtree

    def keeping(path, *arguments, **named):
        if sys._getframe(1).f_code.co_name != "cleanup_temp":
            rmtree(path, *arguments, **named)

    shutil.rmtree = keeping


def _catch_restart():
    """To replace the process by another program means to restart ComfyUI, which comfyd does."""
    process = os.getpid()

    def catching(real):
        def restart(*arguments):
            if os.getpid() != process:                     # a forked child, which becomes what it likes
                return real(*arguments)
            frames.event("restart")
            os._exit(0)
        return restart

    os.execv, os.execve = catching(os.execv), catching(os.execve)


def install():
    """Before anything of ComfyUI is imported."""
    sys.meta_path.insert(0, Finder())
    modules.listen()
    _keep_temp()
    _catch_restart()

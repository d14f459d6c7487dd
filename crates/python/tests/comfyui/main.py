"""Starts as ComfyUI does: packs, routes, the prompt's thread, the server."""
import asyncio
import importlib.util
import logging
import os
import shutil
import sys
import threading
import time

import folder_paths
from comfy.cli_args import args

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def execute_prestartup_script():
    for folder in folder_paths.get_folder_paths("custom_nodes"):
        for name in sorted(os.listdir(folder)):
            script = os.path.join(folder, name, "prestartup_script.py")
            if os.path.exists(script):
                try:
                    spec = importlib.util.spec_from_file_location("prestartup", script)
                    spec.loader.exec_module(importlib.util.module_from_spec(spec))
                except Exception as error:
                    logging.error("Failed to execute startup-script: %s / %s", script, error)


execute_prestartup_script()

import comfy.utils
import execution
import nodes
import server
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context


def prompt_worker(queue, prompt_server):
    execution.PromptExecutor(prompt_server)
    while True:
        queue.get(timeout=1000.0)


def hijack_progress(prompt_server):
    def hook(value, total, preview, prompt_id=None, node_id=None):
        comfy.model_management.throw_exception_if_processing_interrupted()
        context = get_executing_context()
        node = node_id or (context.node_id if context is not None else prompt_server.last_node_id)
        get_progress_state().update_progress(node, value, total, preview)
        told = {"value": value, "max": total, "prompt_id": prompt_server.last_prompt_id, "node": node}
        prompt_server.send_sync("progress", told, prompt_server.client_id)

    comfy.utils.set_progress_bar_global_hook(hook)


def cleanup_temp():
    if os.path.exists(folder_paths.get_temp_directory()):
        shutil.rmtree(folder_paths.get_temp_directory(), ignore_errors=True)


if __name__ == "__main__":
    time.sleep(args.stub_start_seconds)
    if args.stub_start_exits is not None:
        print("the stub ends as it was told", file=sys.stderr)
        sys.exit(args.stub_start_exits)
    if args.stub_start_fails:
        raise RuntimeError("the stub does not start")
    cleanup_temp()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    prompt_server = server.PromptServer(loop)
    loop.run_until_complete(nodes.init_extra_nodes())
    prompt_server.add_routes()
    hijack_progress(prompt_server)
    threading.Thread(target=prompt_worker, daemon=True, args=(prompt_server.prompt_queue, prompt_server)).start()

    async def run():
        addresses = [(address, args.port) for address in args.listen.split(",")]
        await asyncio.gather(prompt_server.start_multi_address(addresses, None, True), prompt_server.publish_loop())

    try:
        loop.run_until_complete(run())
    finally:
        cleanup_temp()

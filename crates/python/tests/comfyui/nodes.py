"""The classes, and how packs are imported."""
import importlib.util
import logging
import os
import sys
import traceback

import comfy.model_management
import folder_paths

NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, EXTENSION_WEB_DIRS, LOADED_MODULE_DIRS = {}, {}, {}, {}


def before_node_execution():
    comfy.model_management.throw_exception_if_processing_interrupted()


def interrupt_processing(value=True):
    comfy.model_management.interrupt_current_processing(value)


class StubCore:
    """Stands for ComfyUI's own classes."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "stub"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}

    def run(self, text):
        return (text,)


NODE_CLASS_MAPPINGS["StubCore"] = StubCore


async def load_custom_node(module_path, ignore=frozenset(), module_parent="custom_nodes"):
    name = os.path.basename(module_path)
    try:
        spec = importlib.util.spec_from_file_location(module_path.replace(".", "_x_"), os.path.join(module_path, "__init__.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    except Exception as error:
        logging.warning(traceback.format_exc())
        logging.warning("Cannot import %s: %s", module_path, error)
        return False
    LOADED_MODULE_DIRS[name] = module_path
    if getattr(module, "WEB_DIRECTORY", None):
        EXTENSION_WEB_DIRS[name] = os.path.abspath(os.path.join(module_path, module.WEB_DIRECTORY))
    for key, cls in getattr(module, "NODE_CLASS_MAPPINGS", {}).items():
        NODE_CLASS_MAPPINGS[key] = cls
        cls.RELATIVE_PYTHON_MODULE = f"{module_parent}.{name}"
    return True


async def init_extra_nodes():
    for folder in folder_paths.get_folder_paths("custom_nodes"):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if os.path.isdir(path) and name != "__pycache__":
                await load_custom_node(path, set(NODE_CLASS_MAPPINGS))

"""Starts the Python side of comfyd: `python worker.py COMFYUI_FOLDER [ComfyUI's own options]`. Standard input is the connection.

What runs is the user's own, unchanged `main.py`, as `__main__`; the package beside this file only hooks into it.
"""
from comfyd_worker import boot

if __name__ == "__main__":
    boot.main()

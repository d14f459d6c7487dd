"""Starts the Python side of comfyd: `python worker.py COMFYUI_FOLDER [ComfyUI's own options]`. Standard input is the connection.

What runs is the user's own, unchanged `main.py`, as `__main__`; the package beside this file only hooks into it.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)                                    # interpreters that are told to be careful do not put it there
from comfyd_worker import boot  # noqa: E402

if __name__ == "__main__":
    while HERE in sys.path:
        sys.path.remove(HERE)
    boot.main()

"""The start: what must come first, then ComfyUI's own `main.py`."""
import os
import runpy
import sys
import traceback

from . import frames, process


def main():
    """Runs `main.py` of the folder that the first argument names, as `__main__`, with the other arguments. Never returns."""
    if len(sys.argv) < 2:
        print("comfyd: worker.py wants the folder of a ComfyUI", file=sys.stderr)
        os._exit(2)
    process.prepare()
    frames.connect()
    folder = os.path.abspath(sys.argv[1])
    from . import seams
    sys.path.insert(0, folder)                             # as if main.py had been started
    sys.argv[:2] = [os.path.join(folder, "main.py")]
    status = 0
    try:
        os.chdir(folder)
        seams.install()
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)                                       # threads of packs would keep the process

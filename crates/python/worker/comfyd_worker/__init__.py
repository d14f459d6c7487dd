"""Boots a user's ComfyUI from its unchanged `main.py`, without its port, and calls single nodes on comfyd's request.

    frames    the connection: messages with an optional block of bytes behind each
    process   what the process does with itself before anything of ComfyUI runs
    values    objects that stay here under a number, and those that cross
    reports   progress, previews and events of nodes and packs
    prompt    the running prompt: its nodes' inputs, calls and outputs
    facade    ComfyUI's queue as packs see it
    executor  ComfyUI's prompt thread, which runs the calls
    modules   how the packs' import went
    manifest  what comfyd must know of classes, routes and folders
    service   what comfyd asks for, and who answers it
    seams     where all this is hooked into ComfyUI
    boot      the start

Nothing of ComfyUI is imported at the top of these files: they are there before it.
"""

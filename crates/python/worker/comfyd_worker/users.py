"""Files of users who are told apart: what a prompt saves goes to `users/NAME` of a folder, and what it names is looked for there first, as
with comfyd's own nodes. Packs that build their paths themselves know nothing of it."""
import functools
import os

from . import prompt

FOLDER = "users"


def install(module):
    """`folder_paths` was imported."""
    for name, make in (("get_save_image_path", _saving), ("get_annotated_filepath", _finding)):
        original = getattr(module, name, None)
        if original is not None:
            setattr(module, name, functools.wraps(original)(make(module, original)))


def _saving(module, original):
    def get_save_image_path(filename_prefix, output_dir, *arguments, **named):
        owner, roots = prompt.State.owner, (module.get_output_directory(), module.get_temp_directory())
        if owner and os.path.abspath(output_dir) in map(os.path.abspath, roots):
            own = f"{FOLDER}/{owner}/"
            filename_prefix = filename_prefix if filename_prefix.startswith(own) else own + filename_prefix
            if not os.path.normpath(filename_prefix).replace(os.sep, "/").startswith(own):
                raise ValueError("the prefix leads out of the user's folder: give a relative one")
        return original(filename_prefix, output_dir, *arguments, **named)
    return get_save_image_path


def _finding(module, original):
    def get_annotated_filepath(*arguments, **named):
        path, owner = original(*arguments, **named), prompt.State.owner
        return _found(module, path, owner) if owner else path
    return get_annotated_filepath


def _found(module, path, owner):
    inputs = os.path.abspath(module.get_input_directory())
    for root in (inputs, *map(os.path.abspath, (module.get_output_directory(), module.get_temp_directory()))):
        below = os.path.relpath(os.path.abspath(path), root).split(os.sep)
        if below[0] == os.pardir:
            continue
        if below[0].rstrip(". ").lower() == FOLDER:
            if below[1:2] != [owner]:
                raise ValueError("the file is another user's: choose one of your own")
            return path
        own = os.path.join(root, FOLDER, owner, *below)
        return own if root != inputs or os.path.exists(own) else path
    return path

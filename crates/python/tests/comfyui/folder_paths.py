"""Where files are, and lists of them."""
import os

from comfy.cli_args import args

base_path = os.path.abspath(args.base_directory or os.path.dirname(os.path.abspath(__file__)))
supported = {".safetensors", ".stub"}
folder_names_and_paths = {
    "stubs": ([os.path.join(base_path, "models", "stubs")], supported),
    "custom_nodes": ([os.path.join(os.path.dirname(os.path.abspath(__file__)), "custom_nodes")], set()),
}


class CacheHelper:
    """Lists that are kept while it is entered."""

    def __init__(self):
        self.cache, self.active = {}, False

    def get(self, key, default=None):
        return self.cache.get(key, default) if self.active else default

    def set(self, key, value):
        if self.active:
            self.cache[key] = value

    def __enter__(self):
        self.active = True

    def __exit__(self, *error):
        self.active, self.cache = False, {}


cache_helper = CacheHelper()


def get_filename_list(name):
    kept = cache_helper.get(name)
    if kept is None:
        paths, endings = folder_names_and_paths[name]
        files = {file for path in paths if os.path.isdir(path) for file in os.listdir(path) if os.path.splitext(file)[1] in endings}
        kept = sorted(files), {}, 0.0
        cache_helper.set(name, kept)
    return list(kept[0])


def get_folder_paths(name):
    return folder_names_and_paths[name][0][:]


def add_model_folder_path(name, path):
    folder_names_and_paths.setdefault(name, ([], supported))[0].append(path)


def _directory(name):
    return lambda: os.path.join(base_path, name)


get_input_directory, get_output_directory = _directory("input"), _directory("output")
get_temp_directory, get_user_directory = _directory("temp"), _directory("user")

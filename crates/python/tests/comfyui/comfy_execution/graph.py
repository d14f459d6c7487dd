"""The graph of the running prompt, with the nodes that expansions added."""
import nodes

from .graph_utils import is_link


class DynamicPrompt:
    def __init__(self, original_prompt):
        self.original_prompt = original_prompt
        self.added, self.parents, self.displays = {}, {}, {}

    def get_node(self, node):
        return self.added[node] if node in self.added else self.original_prompt[node]

    def has_node(self, node):
        return node in self.added or node in self.original_prompt

    def add_ephemeral_node(self, node, info, parent, display):
        self.added[node], self.parents[node], self.displays[node] = info, parent, display

    def get_real_node_id(self, node):
        return self.get_real_node_id(self.parents[node]) if node in self.parents else node

    def get_parent_node_id(self, node):
        return self.parents.get(node)

    def get_display_node_id(self, node):
        return self.get_display_node_id(self.displays[node]) if node in self.displays else node

    def all_node_ids(self):
        return {*self.original_prompt, *self.added}

    def get_original_prompt(self):
        return self.original_prompt


def get_input_info(cls, name, declared=None):
    """Type, category and options of an input; three times nothing for one that is not declared."""
    declared = cls.INPUT_TYPES() if declared is None else declared
    for category in ("required", "optional", "hidden"):
        if name in declared.get(category, ()):
            spec = declared[category][name]
            return spec[0], category, spec[1] if len(spec) > 1 else {}
    return None, None, None


class TopologicalSort:
    def __init__(self, dynprompt):
        self.dynprompt, self.pendingNodes = dynprompt, {}

    def get_input_info(self, node, name):
        return get_input_info(nodes.NODE_CLASS_MAPPINGS[self.dynprompt.get_node(node)["class_type"]], name)

    def add_node(self, node):
        """A node and all that it needs for sure."""
        if node in self.pendingNodes:
            return
        self.pendingNodes[node] = True
        for name, value in self.dynprompt.get_node(node)["inputs"].items():
            if is_link(value):
                options = self.get_input_info(node, name)[2] or {}
                if not options.get("lazy"):
                    self.add_node(value[0])

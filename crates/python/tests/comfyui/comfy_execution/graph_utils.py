"""Links, blockers, and a builder of sub-graphs."""


def is_link(value):
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], (int, float))


class ExecutionBlocker:
    def __init__(self, message):
        self.message = message


class GraphBuilder:
    _prefix, _graphs = ("", 0), 0

    @classmethod
    def set_default_prefix(cls, root, call_index, graph_index=0):
        cls._prefix, cls._graphs = (root, call_index), graph_index

    def __init__(self):
        root, call = GraphBuilder._prefix
        self.prefix = f"{root}.{call}.{GraphBuilder._graphs}."
        GraphBuilder._graphs += 1
        self.nodes = {}

    def node(self, class_type, id=None, **inputs):
        node = Node(self.prefix + (id or str(len(self.nodes) + 1)), class_type, inputs)
        self.nodes[node.id] = node
        return node

    def finalize(self):
        return {node.id: node.serialize() for node in self.nodes.values()}


class Node:
    def __init__(self, id, class_type, inputs):
        self.id, self.class_type, self.inputs, self.display = id, class_type, inputs, None

    def out(self, index):
        return [self.id, index]

    def set_override_display_id(self, id):
        self.display = id

    def serialize(self):
        told = {"class_type": self.class_type, "inputs": self.inputs}
        return told if self.display is None else {**told, "override_display_id": self.display}

"""Whether an output of one type fits an input of another."""


def validate_node_input(received, wanted, strict=False):
    if not received != wanted or "*" in (received, wanted):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    given, taken = ({part.strip() for part in text.split(",")} for text in (received, wanted))
    return "*" in given | taken or bool(given & taken)

"""A pack that cannot be imported."""
import a_module_that_nobody_has

NODE_CLASS_MAPPINGS = {"StubNever": a_module_that_nobody_has.Never}

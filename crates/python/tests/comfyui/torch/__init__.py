"""A double of torch: tensors that can be made, read and taken apart."""
import array
import contextlib

strided = "strided"
__version__ = "stub"


class dtype:
    def __init__(self, name, size, code):
        self.name, self.itemsize, self.code, self.is_complex = name, size, code, False

    def __str__(self):
        return f"torch.{self.name}"


float32, float64 = dtype("float32", 4, "f"), dtype("float64", 8, "d")
float16, bfloat16 = dtype("float16", 2, "H"), dtype("bfloat16", 2, "H")
uint8, int32, int64 = dtype("uint8", 1, "B"), dtype("int32", 4, "i"), dtype("int64", 8, "q")
bool = dtype("bool", 1, "B")


class Tensor:
    layout, is_quantized, device = strided, False, "cpu"

    def __init__(self, memory, dtype, shape):
        self.memory, self.dtype, self.shape = memoryview(memory).cast("B"), dtype, tuple(shape)

    def numel(self):
        count = 1
        for length in self.shape:
            count *= length
        return count

    def element_size(self):
        return self.dtype.itemsize

    def detach(self):
        return self

    cpu = contiguous = detach

    def reshape(self, *shape):
        shape = list(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else list(shape)
        return Tensor(self.memory, self.dtype, [self.numel()] if shape == [-1] else shape)

    def view(self, dtype):
        return Tensor(self.memory, dtype, [len(self.memory) // dtype.itemsize])

    def numpy(self):
        return self.memory

    def tolist(self):
        """The numbers, flat."""
        return self.memory.cast(self.dtype.code).tolist()


def tensor(numbers, dtype=float32, shape=None):
    memory = array.array(dtype.code, numbers)
    return Tensor(memory, dtype, [len(memory)] if shape is None else shape)


def full(shape, value, dtype=float32):
    count = 1
    for length in shape:
        count *= length
    return Tensor(array.array(dtype.code, [value]) * count, dtype, shape)


def empty(*shape, dtype=float32):
    shape = list(shape[0]) if shape and not isinstance(shape[0], int) else list(shape)
    count = 1
    for length in shape:
        count *= length
    return Tensor(bytearray(count * dtype.itemsize), dtype, shape)


def frombuffer(memory, dtype):
    return Tensor(memory, dtype, [len(memory) // dtype.itemsize])


@contextlib.contextmanager
def inference_mode():
    yield

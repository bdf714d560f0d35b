"""Read the arrays of a pickle or joblib file, without loading any class that it names.

A pickle is a program: loading one can run anything. Here it only builds plain containers, numbers,
text and arrays. An object of scikit-learn, NumPy or SciPy becomes an Inert, which holds its state
and has none of its behaviour; any other class or function is refused. joblib is not needed: it
writes a pickle in which the bytes of each array follow the record of its shape.
"""

import io
import math
import pickle
import re
import zlib
from typing import Any, ClassVar

import numpy as np

from tokenizer.errors import UsageError, one_line

# Packages whose objects are read as inert data.
READ_AS_DATA = ("sklearn", "numpy", "scipy", "joblib")
# Of the file, and of what it decompresses to.
MOST_BYTES = 1 << 30
# What the unpickler raises for a file that is cut, and for opcodes in a senseless order.
BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    MemoryError,
    RecursionError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
)
# Names of NumPy's types that have a fixed size and hold no objects.
PLAIN_DTYPE = re.compile(r"[fiub][1248]")


class Inert:
    """An object whose class was not loaded.

    arguments: of its constructor. state: its attributes.
    """

    arguments: tuple
    state: Any

    def __new__(cls, *arguments: Any, **_: Any) -> "Inert":
        """Keep the arguments; __init__ does nothing."""
        inert = super().__new__(cls)
        inert.arguments, inert.state = arguments, None
        return inert

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_pickle(content: bytes) -> Any:
    """A file's content → its top object: a container, number, text, array or Inert.

    Plain pickles and joblib files of joblib 0.10 or later, uncompressed or compressed by zlib or
    gzip. Raises UsageError, which names the class, for a class that is not read as data, and when
    it is no such file.
    """
    if content[:1] in (b"\x78", b"\x1f"):
        content = _decompressed(content)
    if content[:1] != b"\x80":
        raise UsageError("it is no pickle or joblib file")
    try:
        return plain(_Reader(io.BytesIO(content)).load())
    except UsageError:
        raise
    except BROKEN as error:
        raise UsageError(f"it is a damaged pickle ({one_line(error)})") from error


def plain(value: Any) -> Any:
    """An array in place of the Inert that stands for one; any other value as it is."""
    return value.array() if isinstance(value, _Array) else value


def _decompressed(content: bytes) -> bytes:
    reader = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # zlib's header or gzip's
    try:
        result = reader.decompress(content, MOST_BYTES)
    except zlib.error as error:
        raise UsageError(f"it is damaged ({error})") from error
    if reader.unconsumed_tail:
        raise UsageError("it decompresses to over 1 GiB")
    if not reader.eof:
        raise UsageError("it ends too early")
    return result


class _Dtype(Inert):
    """numpy.dtype: a name, and the byte order in its state."""

    def dtype(self) -> np.dtype:
        name = self.arguments[0]
        if not isinstance(name, str) or not PLAIN_DTYPE.fullmatch(name):
            raise UsageError("it has an array of other things than numbers")
        return np.dtype(f"{'>' if self.state and self.state[1] == '>' else '<'}{name}")


class _Array(Inert):
    """An array as NumPy pickles it: with its bytes in the pickle."""

    def array(self) -> np.ndarray:
        if self.state is None:
            raise UsageError("it has an array without content")
        _, shape, dtype, fortran, content = self.state
        return _array(content, dtype, shape=shape, order="F" if fortran else "C")


class _ArrayOfBuffer(_Array):
    """An array as NumPy pickles it by protocol 5."""

    def array(self) -> np.ndarray:
        content, dtype, shape, order = self.arguments
        return _array(content, dtype, shape=shape, order=order)


class _Wrapper(Inert):
    """joblib's record of an array whose bytes follow it in the file."""

    def read(self, file: io.BytesIO) -> np.ndarray:
        about = self.state
        # Since joblib 1.2 padding comes first, and before it a byte that is its length.
        if about.get("numpy_array_alignment_bytes") is not None:
            (padding,) = file.read(1)
            file.read(padding)
        size = about["dtype"].dtype().itemsize * math.prod(_shape(about["shape"]))
        content = file.read(size)
        return _array(content, about["dtype"], shape=about["shape"], order=about["order"])


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise UsageError("it has an array of an impossible shape")
    return shape


def _array(content: Any, dtype: Any, *, shape: Any, order: Any) -> np.ndarray:
    """The array of these bytes. Raises UsageError when there are more or fewer than its shape's."""
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
        raise UsageError("it has an array of objects")
    kind, size = dtype.dtype(), math.prod(_shape(shape))
    if len(content) != size * kind.itemsize:
        raise UsageError("it ends too early")
    flat = np.frombuffer(content, kind)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _latin1(text: str, *_: Any) -> bytes:
    """Bytes as protocol 2 writes them: `_codecs.encode(text, "latin1")`."""
    return text.encode("latin1")


# What stands for these names. NumPy 2 moved numpy.core to numpy._core.
STAND_INS = {
    "_codecs.encode": _latin1,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.numeric._frombuffer": _ArrayOfBuffer,
    "joblib.numpy_pickle.NumpyArrayWrapper": _Wrapper,
}


class _Reader(pickle._Unpickler):
    """The unpickler in Python, whose steps can be replaced; the one in C never runs."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for a class or function; it imports nothing."""
        full = f"{module}.{name}"
        stand_in = STAND_INS.get(full.replace("numpy._core.", "numpy.core."))
        if stand_in:
            return stand_in
        if full == "collections.OrderedDict":
            return dict
        if module.partition(".")[0] not in READ_AS_DATA:
            raise UsageError(
                f"it holds {full[:80]!r}, which is neither an array nor scikit-learn's"
            )
        return type(name, (Inert,), {})

    def load_build(self) -> None:
        """Set an object's state; the bytes of joblib's arrays follow it in the file."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        built = self.stack[-1]  # type: ignore[attr-defined]
        if not isinstance(built, Inert):
            raise UsageError("it sets the state of what has none")
        built.__setstate__(state)
        if isinstance(built, _Wrapper):
            self.stack[-1] = built.read(self.file)  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = load_build

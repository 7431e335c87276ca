# What the type checker should believe about the cffi module, which only exists once it is built.
from typing import Any

from cffi import FFI

ffi: FFI
lib: Any

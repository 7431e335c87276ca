# What the type checker should believe about the cffi module, which only exists once it is built:
# structures, pointers and functions of C have no types that Python's could express.
from typing import Any

ffi: Any
lib: Any

"""Write the C source of the cffi module from the headers that C itself includes.

cffi's parser reads declarations, not the preprocessor, so the ABI headers are
reduced to what it knows: comments, include guards and asserts go away, and a
#define keeps its value if it is a plain integer; any other becomes
`#define NAME ...`, whose value the C compiler fills in.

A file named *.cdef is for the parser alone and never included: it lists what
Python takes from a system header that the included ones bring along.
"""

import re
import sys
from pathlib import Path

import cffi


def reduce(text: str) -> str:
    """Strip one header to cffi's subset of C."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"_Static_assert\s*\(.*?\);", "", text, flags=re.S)
    kept = []
    for line in text.splitlines():
        define = re.match(r"\s*#\s*define\s+(\w+)\s+(\S.*)", line)
        if define:
            value = define[2].strip()
            plain = re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", value)
            kept.append(f"#define {define[1]} {value if plain else '...'}")
        elif not re.match(r"\s*#", line):
            kept.append(line)
    return "\n".join(kept)


def main(module: str, target: str, *headers: str) -> None:
    ffi = cffi.FFI()
    for header in headers:
        ffi.cdef(reduce(Path(header).read_text()))
    included = [Path(header).name for header in headers if not header.endswith(".cdef")]
    includes = "\n".join(f'#include "{name}"' for name in included)
    ffi.set_source(module, f"{includes}\n")
    ffi.emit_c_code(target)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A plugin of pytest: CuPy without its pool of memory, which would hide from compute-sanitizer where arrays end."""

import cupy

cupy.cuda.set_allocator(None)

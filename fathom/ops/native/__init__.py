"""Native kernels for CPUs: one C++ source, compiled for AMX, AVX-512, AVX2 and plainly, chosen when a model is made.

src/ holds the kernels (start at packed.h and products.h: the two products that everything is made of), build.py compiles them,
library.py loads them, packed.py is the weights' layout, kernels.py their place in the kernel table.
"""
from .build import ISA_FLAGS, build, default_folder
from .kernels import rows

__all__ = ["ISA_FLAGS", "build", "default_folder", "rows"]

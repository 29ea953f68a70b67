"""python -m fathom.ops.native: compile the native kernels, as `make setup` does. Failing is no error: the reference kernels do everything."""
from ...errors import UserError
from .build import build, default_folder

if __name__ == "__main__":
    try:
        build(default_folder(), say=print)
    except UserError as e:
        print(f"native kernels not built: {e.one_line()}")

"""Models: pixels in, arrays or text out."""

import ctypes
import platform

from pipeline.models.importing import leave_compiler_out


def _keep_memory() -> None:
    """Let glibc keep what torch frees on CPU, for its next tensor.

    By itself it gives blocks of that size back to the system, which hands them out again page by page, zeroed: 480 MB
    for each batch of ViT-B-32, a tenth of its time. One arena for all threads, because those of threads cannot grow so
    large; it holds for threads that are started from now on. What glibc calls the settings: malloc.h, mallopt(3).
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for setting, value in ((mmap_threshold, 1 << 30), (trim_threshold, 1 << 30), (arena_max, 1)):
            libc.mallopt(setting, value)


_keep_memory()
leave_compiler_out()

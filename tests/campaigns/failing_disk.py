"""A disk that fails, by a library that programs load first."""

import os
import pathlib
import shutil
import subprocess

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Whether reading this file fails: its path has FAULT_PATH in it and the file FAULT_ON exists. */
static int fails(int fd) {
  const char *part = getenv("FAULT_PATH"), *on = getenv("FAULT_ON");
  char link[64], path[4096];
  if (!part || !on || access(on, F_OK)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return strstr(path, part) != NULL;
}

ssize_t read(int fd, void *buffer, size_t size) {
  static ssize_t (*next)(int, void *, size_t);
  if (!next) next = dlsym(RTLD_NEXT, "read");
  int before = errno;
  if (fails(fd)) return errno = EIO, -1;
  errno = before;
  return next(fd, buffer, size);
}

ssize_t pread64(int fd, void *buffer, size_t size, off_t place) {
  static ssize_t (*next)(int, void *, size_t, off_t);
  if (!next) next = dlsym(RTLD_NEXT, "pread64");
  int before = errno;
  if (fails(fd)) return errno = EIO, -1;
  errno = before;
  return next(fd, buffer, size, place);
}

ssize_t pread(int fd, void *buffer, size_t size, off_t place) {
  return pread64(fd, buffer, size, place);
}
"""


def is_possible() -> bool:
    """Whether there is what the library needs: a C compiler and Linux's /proc."""
    return shutil.which("cc") is not None and os.path.exists("/proc/self/fd")


def environment(folder: pathlib.Path, part: str) -> dict[str, str]:
    """The environment of programs that cannot read some files while `folder / "fails"` exists.

    Args:
      folder: a folder for the library.
      part: a part of the paths of these files.
    """
    source, library = folder / "fault.c", folder / "fault.so"
    source.write_text(_SOURCE)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, text=True
    )
    return os.environ | {
        "LD_PRELOAD": str(library),
        "FAULT_PATH": part,
        "FAULT_ON": str(folder / "fails"),
    }

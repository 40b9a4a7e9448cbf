"""The simulated world. Whatever module of it is imported first, rendering is set up before MuJoCo reads the
settings."""

import os

# MuJoCo reads this once, when it is imported; EGL renders without a screen, with or without a GPU.
os.environ.setdefault("MUJOCO_GL", "egl")
# Mesa writes its cache in a thread of the lowest priority; while others keep the cores busy it does not even die, and a
# process that has ended stays.
os.environ.setdefault("MESA_SHADER_CACHE_DISABLE", "true")

"""A distilled vision-language-action policy drives an ARX5 arm.

The package may lie in two places at once: the source tree, and the colcon overlay that holds the generated messages.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"

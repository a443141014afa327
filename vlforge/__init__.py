"""VLForge: data, training and evaluation of vision-language models in one loop.

`from vlforge import Recipe, train`: what the command line does, from Python.
"""

TYPE_CHECKING = False  # as typing's, whose import takes longer than all of this
if TYPE_CHECKING:
    from vlforge.api import Recipe, train

__version__ = "0.1.0"
__all__ = ["Recipe", "train"]


def __getattr__(name: str) -> object:
    # Whoever only wants the version does not wait for recipes and schemas.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("vlforge.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]

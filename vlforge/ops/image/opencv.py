"""OpenCV, loaded where it is needed, and its file of faces."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from vlforge.types import RecipeError

FACES = "haarcascade_frontalface_alt.xml"


def need_opencv(op: str) -> None:
    """Refuse a recipe where OpenCV is not installed; it is not loaded for that.

    Raises:
        RecipeError: says how to install it.
    """
    if importlib.util.find_spec("cv2") is None:
        raise RecipeError(f"{op} needs OpenCV: pip install 'vlforge[ops]'")


def load_opencv() -> Any:
    """OpenCV without its threads: each worker has its core, and threads do not outlive a fork."""
    import cv2

    cv2.setNumThreads(0)
    return cv2


def face_file(op: str, cv_classifier: str) -> str:
    """The path of the cascade: the one that was asked for, or that of OpenCV's own data.

    Raises:
        RecipeError: there is none; says what to install.
    """
    need_opencv(op)
    if cv_classifier:
        if not Path(cv_classifier).is_file():
            raise RecipeError(f"{op}.cv_classifier is {cv_classifier!r}, which is no file")
        return cv_classifier
    found = importlib.util.find_spec("cv2")
    folders = found.submodule_search_locations if found else None
    for folder in folders or ():
        path = Path(folder) / "data" / FACES
        if path.is_file():
            return str(path)
    raise RecipeError(
        f"{op}: this OpenCV comes without {FACES}: "
        "pip install 'opencv-python-headless<5', or set cv_classifier"
    )

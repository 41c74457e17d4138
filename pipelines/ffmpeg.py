"""Where the ffmpeg program is: the one the user names in ``VAMBA_FFMPEG``, else the one in imageio-ffmpeg's wheel."""

from __future__ import annotations

import os
import shutil

ENV_FFMPEG = "VAMBA_FFMPEG"


def ffmpeg_binary() -> str:
    """Path of the ffmpeg program to run.

    Raises:
        ValueError: ``VAMBA_FFMPEG`` names a program that does not exist or may not be executed. A name that the
            user gave is never replaced by the bundled program.
    """
    named = os.environ.get(ENV_FFMPEG)
    if named:
        found = shutil.which(named)
        if found is None:
            raise ValueError(
                f"{ENV_FFMPEG}={named!r} names no program that can be run. Give the path of an ffmpeg binary, "
                f"or unset {ENV_FFMPEG} to use the one that comes with imageio-ffmpeg."
            )
        return found
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()
